//! Options that are on or off, as their environment variables say it.

/// Whether it is on. Empty: off.
///
/// # Errors
/// For a word that says neither: some options end the program that they are about.
pub fn parse(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "y" | "yes" | "t" | "true" | "on" => Ok(true),
        "" | "0" | "n" | "no" | "f" | "false" | "off" => Ok(false),
        _ => Err("neither yes nor no"),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn words_that_say_neither_are_refused() {
        assert!(["1", "yes", "TRUE", "On"].into_iter().all(|word| parse(word) == Ok(true)));
        assert!(["", "0", "no", "False", "off"].into_iter().all(|word| parse(word) == Ok(false)));
        assert!(["maybe", "2", " "].into_iter().all(|word| parse(word).is_err()));
    }
}
