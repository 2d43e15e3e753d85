//! Patterns for paths.

/// Whether `pattern` fits the absolute `path`. `*` stands for any bytes but `/`, `**` for any, `?` for one but `/`;
/// everything else for itself. A pattern without `/` is for the last part of a path.
pub(super) fn fits(pattern: &[u8], path: &[u8]) -> bool {
    let last = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
    matches(pattern, if pattern.contains(&b'/') { path } else { last })
}

/// Goes back to the last star of each kind only: what an earlier one could take in more, a later one takes in as well.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on after a star, and how far it has come.
    let (mut star, mut stars) = (None, None);
    loop {
        let rest = pattern.get(p..).unwrap_or_default();
        match (rest, text.get(t).copied()) {
            ([b'*', b'*', ..], _) => {
                p += 2;
                (star, stars) = (None, Some((p, t)));
                continue;
            }
            ([b'*', ..], _) => {
                p += 1;
                star = Some((p, t));
                continue;
            }
            ([], None) => return true,
            ([b'?', ..], Some(b)) if b != b'/' => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            ([a, ..], Some(b)) if *a == b => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            _ => {}
        }
        let longer = |(after, from): (usize, usize)| (after, from + 1);
        star = star.filter(|&(_, from)| text.get(from).is_some_and(|&b| b != b'/')).map(longer);
        if star.is_none() {
            stars = stars.filter(|&(_, from)| from < text.len()).map(longer);
        }
        match star.or(stars) {
            Some(next) => (p, t) = next,
            None => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, path, expected) in [
            ("/a/b", "/a/b", true),
            ("/a/b", "/a/bc", false),
            ("b", "/a/b", true),
            ("a", "/a/b", false),
            ("*.db", "/a/x.db", true),
            ("*.db", "/a/x.db.old", false),
            ("/a/*.db", "/a/x.db", true),
            ("/a/*.db", "/a/b/x.db", false),
            ("/a/**.db", "/a/b/x.db", true),
            ("/a/**", "/a/b/c/d", true),
            ("/a/**", "/b/c", false),
            ("/**/c/*", "/a/b/c/c/d", true),
            ("/**/c/*", "/a/b/c/d/e", false),
            ("/*/c", "/a/b/c", false),
            ("/*/?/c", "/a/b/c", true),
            ("?", "/a/b", true),
            ("/a?b", "/a/b", false),
            ("*", "/a/b", true),
            ("**", "/a/b", true),
            ("/*", "/a/b", false),
            ("*a*b*", "/x/aab", true),
            ("/**a/*b", "/a/a/xb", true),
            ("", "/a", false),
        ] {
            assert_eq!(fits(pattern.as_bytes(), path.as_bytes()), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let (pattern, text) = (format!("/{}b", "*a**".repeat(40)), format!("/{}", "a".repeat(5000)));
        assert!(!fits(pattern.as_bytes(), text.as_bytes()));
    }
}
