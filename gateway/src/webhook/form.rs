//! The forms in which senders write signatures and numbers, read strictly: one alphabet, exact lengths, nothing
//! skipped or repaired. What could be written in two ways is taken in one.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::denial::Reason;

/// The most signatures that are read from one header. Senders write two or three during a rotation.
pub const MOST_SIGNATURES: usize = 16;

/// Exactly `2 * N` lower-case hex digits.
pub fn lower_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != 2 * N || text.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    let mut out = [0; N];
    hex::decode_to_slice(text, &mut out).ok()?;
    Some(out)
}

/// `N` bytes in base64: standard alphabet, padded, without stray bits (RFC 4648, section 4).
pub fn base64<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != N.div_ceil(3) * 4 {
        return None;
    }
    STANDARD.decode(text).ok()?.try_into().ok()
}

/// A whole number as a person would write it: digits only, no leading zero, at most fifteen of them.
pub fn decimal(text: &[u8]) -> Option<i64> {
    let canonical = match text {
        [b'0'] => true,
        [b'1'..=b'9', rest @ ..] => rest.len() < 15 && rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !canonical {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A list of signatures, each behind its version, such as `v1=…,v0=…`.
#[derive(Debug, Clone, Copy)]
pub struct List {
    /// What stands between two signatures.
    pub between: u8,
    /// What stands between a version and its signature.
    pub behind_version: u8,
    /// The version that is spoken here. Others are passed over: a sender may add a new one at any time.
    pub version: &'static [u8],
}

impl List {
    /// All signatures of the version. None at all is a missing signature; one that cannot be read makes the whole
    /// header malformed.
    pub fn read<const N: usize>(
        &self,
        text: &[u8],
        decode: fn(&[u8]) -> Option<[u8; N]>,
    ) -> Result<Vec<[u8; N]>, Reason> {
        let mut found = Vec::new();
        for item in self.items(text)? {
            let (version, signature) = item?;
            if version == self.version && !signature.is_empty() {
                found.push(decode(signature).ok_or(Reason::SignatureMalformed)?);
            }
        }
        if found.is_empty() {
            return Err(Reason::SignatureMissing);
        }
        Ok(found)
    }

    /// The items of the list as versions and values.
    #[expect(
        clippy::type_complexity,
        reason = "an iterator of pairs, each of which may be refused"
    )]
    pub fn items<'a>(
        &self,
        text: &'a [u8],
    ) -> Result<impl Iterator<Item = Result<(&'a [u8], &'a [u8]), Reason>> + use<'a>, Reason> {
        let Self {
            between,
            behind_version,
            ..
        } = *self;
        if text.is_empty() {
            return Err(Reason::SignatureMissing);
        }
        let printable = |b: &u8| b.is_ascii_graphic() || *b == between;
        let count = memchr::memchr_iter(between, text).count() + 1;
        if count > MOST_SIGNATURES || !text.iter().all(printable) {
            return Err(Reason::SignatureMalformed);
        }
        Ok(text.split(move |b| *b == between).map(move |item| {
            let at = item
                .iter()
                .position(|b| *b == behind_version)
                .filter(|at| *at > 0)
                .ok_or(Reason::SignatureMalformed)?;
            Ok((&item[..at], &item[at + 1..]))
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIST: List = List {
        between: b',',
        behind_version: b'=',
        version: b"v1",
    };

    #[test]
    fn only_bare_lower_case_hex_of_the_right_length_is_taken() {
        let good = "ab".repeat(32);
        assert_eq!(lower_hex::<32>(good.as_bytes()), Some([0xab; 32]));
        for bad in [
            good.to_uppercase(),
            format!("sha256={good}"),
            good[..62].to_owned(),
            format!("{good}ab"),
            "zz".repeat(32),
            format!(" {}", &good[1..]),
        ] {
            assert!(lower_hex::<32>(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn only_padded_standard_base64_without_stray_bits_is_taken() {
        let good = "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert!(base64::<32>(good.as_bytes()).is_some());
        for bad in [
            good.trim_end_matches('='),
            "g0hM9SsE-OTPJTGt_tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            // The same bytes, were the last bits ignored.
            "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OF=",
            "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1O==",
            "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= ",
            "",
        ] {
            assert!(base64::<32>(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn numbers_have_one_spelling() {
        assert_eq!(decimal(b"1614265330"), Some(1_614_265_330));
        assert_eq!(decimal(b"0"), Some(0));
        for bad in [
            &b""[..],
            b"00",
            b"01614265330",
            b"+1614265330",
            b"-1",
            b"1614265330 ",
            b" 1614265330",
            b"1614265330.0",
            b"0x1",
            b"1e9",
            b"1_000",
            "１".as_bytes(),
            b"1234567890123456",
        ] {
            assert_eq!(decimal(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn lists_are_bounded_and_versions_told_apart() {
        let one = format!("v1={}", "ab".repeat(32));
        let read = |text: &str| LIST.read(text.as_bytes(), lower_hex::<32>).map(|l| l.len());
        assert_eq!(read(&one), Ok(1));
        assert_eq!(read(&format!("{one},{one}")), Ok(2));
        assert_eq!(read(&format!("v0=anything,v2=,{one}")), Ok(1));
        let many = |n: usize| vec![one.as_str(); n].join(",");
        assert_eq!(read(&many(MOST_SIGNATURES)), Ok(MOST_SIGNATURES));
        assert_eq!(
            read(&many(MOST_SIGNATURES + 1)),
            Err(Reason::SignatureMalformed)
        );
        for missing in ["", "v1=", "v2=aa", "v2=aa,v1="] {
            assert_eq!(read(missing), Err(Reason::SignatureMissing), "{missing}");
        }
        for bad in [
            "v1",
            "=aa",
            ",",
            &format!("{one},"),
            &format!("{one}, {one}"),
            &format!("{one},v1=abc"),
            &format!("{one},\u{e9}=1"),
        ] {
            assert_eq!(read(bad), Err(Reason::SignatureMalformed), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_the_same(bytes: [u8; 32], number in 0_i64..1_000_000_000_000_000) {
            let text = hex::encode(bytes);
            prop_assert_eq!(lower_hex::<32>(text.as_bytes()), Some(bytes));
            let text = STANDARD.encode(bytes);
            prop_assert_eq!(base64::<32>(text.as_bytes()), Some(bytes));
            prop_assert_eq!(decimal(number.to_string().as_bytes()), Some(number));
        }

        #[test]
        fn whatever_is_read_has_one_spelling(text in proptest::collection::vec(any::<u8>(), 0..70)) {
            if let Some(bytes) = lower_hex::<32>(&text) {
                prop_assert_eq!(hex::encode(bytes).into_bytes(), text.clone());
            }
            if let Some(bytes) = base64::<32>(&text) {
                prop_assert_eq!(STANDARD.encode(bytes).into_bytes(), text.clone());
            }
            if let Some(number) = decimal(&text) {
                prop_assert_eq!(number.to_string().into_bytes(), text.clone());
            }
            // Never a panic, whatever comes.
            let _ = LIST.read(&text, lower_hex::<32>);
        }
    }
}
