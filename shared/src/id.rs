//! The grammar of ids that people choose and both programs print.

/// The longest name in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// Whether `name` may name a thing (a key, a route, a card, a run): 1 to [`MAX_NAME_BYTES`] bytes of
/// ASCII letters, digits, `-`, `_` and `.`, beginning with a letter or digit. Such a name is safe
/// in a header, a path segment, a file name and a log line.
pub fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= MAX_NAME_BYTES
        && bytes[0].is_ascii_alphanumeric()
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// A new ULID as text: 26 characters, sortable by the time it was made.
pub fn new_ulid() -> String {
    ulid::Ulid::generate().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_everywhere() {
        for good in ["a", "ci", "ISSUE-1", "01J0", "a.b_c-d"] {
            assert!(is_name(good), "{good}");
        }
        for bad in [
            "",
            "-a",
            ".",
            "..",
            "a/b",
            "a b",
            "ä",
            "a\n",
            &"a".repeat(129),
        ] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
