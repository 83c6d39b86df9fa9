//! The text of the keys that `orket-gateway keys` makes: `ork_<id>_<random>_<check>`.
//!
//! * `id` is the key's id. It may itself hold `_`, `-` and `.`, so the text is taken apart from its end.
//! * `random` is 32 characters of Crockford's base32 in lower case (no `i`, `l`, `o`, `u`): 160 bits.
//! * `check` is the CRC-32 (ISO-HDLC, as in RFC 1952) of all that stands before its `_`, in 7 such characters. A CRC finds every single
//!   wrong character and every swap of two neighbours.
//!
//! The check finds typing errors and proves nothing: a key is proven by its digest alone, and a key of
//! another form is as good. Reading a text here depends on that text only, never on a stored key.

use rand::Rng;

/// How every such key begins; also what a search for leaked keys looks for.
pub const PREFIX: &str = "ork_";

/// Crockford's base32, in lower case.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Characters of the random part, of 5 bits each.
const RANDOM_CHARS: usize = 32;

/// Characters of the check part: 35 bits for a CRC of 32.
const CHECK_CHARS: usize = 7;

/// How far a mistyped random or check part may be off in length and still be told as one of these keys.
const SLIPS: usize = 8;

/// What a presented text looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form<'a> {
    /// Not a key of this form; it may be an operator's own.
    Foreign,
    /// A key of this form with an error in it.
    Mistyped {
        /// The id it claims.
        id: &'a str,
    },
    /// A key of this form whose check holds.
    Whole {
        /// The id it claims.
        id: &'a str,
    },
}

/// A new key for this id. The only copy there is: what is kept is its digest.
pub fn make(id: &str) -> String {
    let mut bytes = [0_u8; RANDOM_CHARS];
    rand::rng().fill_bytes(&mut bytes);
    // 256 is a multiple of 32, so the low 5 bits of a random byte are random.
    let random: String = bytes.iter().map(|b| letter(u32::from(*b))).collect();
    with_check(&format!("{PREFIX}{id}_{random}"))
}

/// Takes a presented text apart.
pub fn read(presented: &[u8]) -> Form<'_> {
    let taken = std::str::from_utf8(presented).ok().and_then(|text| {
        let (before, check) = text.rsplit_once('_')?;
        let (head, random) = before.rsplit_once('_')?;
        Some((text, before, head.strip_prefix(PREFIX)?, random, check))
    });
    let Some((text, before, id, random, check)) = taken else {
        return Form::Foreign;
    };
    let of_this_form = orket_shared::id::is_name(id)
        && random.len().abs_diff(RANDOM_CHARS) <= SLIPS
        && check.len() <= CHECK_CHARS + SLIPS
        && [random, check]
            .iter()
            .all(|part| part.bytes().all(|b| b.is_ascii_alphanumeric()));
    if !of_this_form {
        return Form::Foreign;
    }
    let whole = random.len() == RANDOM_CHARS
        && random.bytes().all(|b| ALPHABET.contains(&b))
        && with_check(before) == text;
    if whole {
        Form::Whole { id }
    } else {
        Form::Mistyped { id }
    }
}

fn with_check(before: &str) -> String {
    let crc = crc32fast::hash(before.as_bytes());
    let check = [30, 25, 20, 15, 10, 5, 0].map(|shift| letter(crc >> shift));
    let mut whole = format!("{before}_");
    whole.extend(check);
    whole
}

/// The character of the low 5 bits.
fn letter(bits: u32) -> char {
    char::from(ALPHABET[(bits & 31) as usize])
}

#[cfg(test)]
#[expect(clippy::panic, reason = "a test may fail")]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_whole_whatever_the_id() {
        for id in ["ci", "a_b", "a-b.c", "ork_x", "a__b", "CI"] {
            let key = make(id);
            assert_eq!(read(key.as_bytes()), Form::Whole { id }, "{key}");
            assert_ne!(key, make(id));
            assert!(!key.contains('-') || id.contains('-'));
        }
    }

    #[test]
    fn one_key_for_all_to_compare_with() {
        let key = with_check("ork_ci_0123456789abcdefghjkmnpqrstvwxyz");
        assert_eq!(key, "ork_ci_0123456789abcdefghjkmnpqrstvwxyz_03nxhmk");
    }

    #[test]
    fn every_slip_of_one_character_is_found() {
        let key = make("ci_2");
        let from = "ork_ci_2_".len();
        for at in from..key.len() {
            let mut cut = key.clone();
            let was = cut.remove(at);
            assert_mistyped(&cut, &key);
            if was == '_' {
                continue;
            }
            for other in ALPHABET.iter().copied().chain(*b"iloABC") {
                let mut wrong = key.clone();
                wrong.replace_range(at..=at, &char::from(other).to_string());
                if wrong != key {
                    assert_mistyped(&wrong, &key);
                }
            }
        }
        for at in from..key.len() - 1 {
            let mut swapped = key.clone().into_bytes();
            swapped.swap(at, at + 1);
            if swapped != key.as_bytes() && !swapped[at..=at + 1].contains(&b'_') {
                assert!(matches!(read(&swapped), Form::Mistyped { .. }), "{at}");
            }
        }
        assert_mistyped(
            &key.to_uppercase().replacen("ORK_CI_2", "ork_ci_2", 1),
            &key,
        );
        assert_mistyped(&key.replacen("ork_ci_2", "ork_ci_3", 1), &key);
    }

    fn assert_mistyped(text: &str, key: &str) {
        match read(text.as_bytes()) {
            Form::Mistyped { .. } => {}
            // Without one of its `_` it is not of the form any more.
            Form::Foreign if text.matches('_').count() < key.matches('_').count() => {}
            Form::Foreign | Form::Whole { .. } => panic!("{text} for {key}"),
        }
    }

    #[test]
    fn other_keys_are_nobodys_business() {
        for foreign in [
            "",
            "x",
            "ork",
            "ork_",
            "ork_a",
            "ork_a_b",
            "ork_a_b_c",
            "ork-test-4f9Q2xW7bLr8ZsT1kVn6YcD3",
            "ORK_ci_0123456789abcdefghjkmnpqrstvwxyz_0000000",
            "ork__0123456789abcdefghjkmnpqrstvwxyz_0000000",
            "ork_ci_0123456789abcdefghjkmnpqrst wxyz_0000000",
        ] {
            assert_eq!(read(foreign.as_bytes()), Form::Foreign, "{foreign}");
        }
        assert_eq!(read(b"ork_ci_\xff\xff"), Form::Foreign);
    }
}
