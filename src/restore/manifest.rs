//! Whether this host can run what another saved.

use std::collections::BTreeSet;

use crate::model::manifest::Cpu;

/// Prefixes of /proc/cpuinfo flags that programs select code by. Others (power management, mitigations, what only a
/// kernel uses) may differ.
const USER_FEATURES: &[&str] = &[
    "sse",
    "ssse",
    "pni",
    "avx",
    "amx",
    "aes",
    "vaes",
    "pclmulqdq",
    "vpclmulqdq",
    "popcnt",
    "bmi",
    "abm",
    "fma",
    "f16c",
    "movbe",
    "adx",
    "sha_ni",
    "sha512",
    "gfni",
    "rdrand",
    "rdseed",
    "rdpid",
    "rdtscp",
    "cx16",
    "erms",
    "fsrm",
    "fsgsbase",
    "rtm",
    "hle",
    "mmx",
    "cmov",
    "fxsr",
    "xsave",
    "lahf_lm",
    "3dnow",
    "tbm",
    "xop",
    "fma4",
    "sse4a",
    "clflushopt",
    "clwb",
    "movdiri",
    "movdir64b",
    "serialize",
    "waitpkg",
    "lzcnt",
    "pku",
    "ospke",
    "cldemote",
];

/// Features that the saved program may be using and this processor lacks.
pub fn missing_features(saved: &Cpu, here: &[String]) -> Vec<String> {
    let here: BTreeSet<&str> = here.iter().map(String::as_str).collect();
    let used = |flag: &&String| USER_FEATURES.iter().any(|p| flag.starts_with(p));
    saved.flags.iter().filter(used).filter(|f| !here.contains(f.as_str())).cloned().collect()
}

/// `flags` of this processor.
pub fn own_flags() -> Vec<String> {
    let text = crate::proc::read("cpuinfo").unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find_map(|l| l.strip_prefix("flags")).unwrap_or_default();
    line.split_whitespace().filter(|w| *w != ":").map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_programs_use_counts() {
        let flags = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let saved =
            Cpu { model: String::new(), flags: flags(&["avx2", "avx512f", "constant_tsc", "pti"]), xfeatures: 7 };
        assert_eq!(missing_features(&saved, &flags(&["avx2", "sse2"])), ["avx512f"]);
    }

    #[test]
    fn this_processor_has_flags() {
        assert!(own_flags().iter().any(|f| f == "sse2"));
    }
}
