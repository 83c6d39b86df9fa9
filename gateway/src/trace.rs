//! The trace a request belongs to (W3C Trace Context, <https://www.w3.org/TR/trace-context/>).
//!
//! The gateway records no spans, so it is no parent: a valid `traceparent` goes on byte for byte, with its
//! `tracestate`. An invalid or doubled one is dropped together with `tracestate`, and a new trace begins, as it does
//! where none came; a trace of ours asks nobody to sample it.

use std::{fmt::Write as _, num::NonZero};

use http::{HeaderMap, HeaderName, HeaderValue, header::InvalidHeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The length of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// The trace of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    id: NonZero<u128>,
    origin: Origin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// The client belongs to it.
    Client,
    /// It begins here, with this parent id.
    Here(NonZero<u64>),
}

impl Trace {
    /// The trace these headers name, or a new one.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let id = match (values.next(), values.next()) {
            (Some(value), None) => trace_id(value.as_bytes()),
            (_, _) => None,
        };
        match id {
            Some(id) => Self {
                id,
                origin: Origin::Client,
            },
            None => Self::new(),
        }
    }

    /// A new trace.
    pub fn new() -> Self {
        Self {
            id: rand::random(),
            origin: Origin::Here(rand::random()),
        }
    }

    /// The trace's id.
    pub fn id(&self) -> u128 {
        self.id.get()
    }

    /// Makes the request say which trace it belongs to.
    pub fn stamp(&self, headers: &mut HeaderMap) -> Result<(), InvalidHeaderValue> {
        match self.origin {
            Origin::Client => Ok(()),
            Origin::Here(parent) => {
                let mut value = String::with_capacity(LENGTH);
                let _ = write!(value, "00-{:032x}-{parent:016x}-00", self.id);
                headers.remove(TRACESTATE);
                headers.insert(TRACEPARENT, HeaderValue::try_from(value)?);
                Ok(())
            }
        }
    }
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}

/// The trace id of a valid `traceparent` (section 3.2). A version to come may be longer, and is read as far as version 00
/// goes.
fn trace_id(value: &[u8]) -> Option<NonZero<u128>> {
    let (known, rest) = value.split_at_checked(LENGTH)?;
    let mut fields = known.split(|b| *b == b'-');
    let mut field = |length: usize| {
        let text = fields.next().filter(|f| f.len() == length)?;
        // Lower case only, which `from_str_radix` alone would not hold.
        let plain = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
        let text = text.iter().all(plain).then_some(text)?;
        u128::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
    };
    let (version, trace, parent, _flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
    let well_formed = match version {
        0 => rest.is_empty(),
        // Forbidden.
        0xff => false,
        _ => rest.is_empty() || rest.starts_with(b"-"),
    };
    (well_formed && parent != 0)
        .then(|| NonZero::new(trace))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_specification_are_read() {
        for value in [
            // Section 3.2.4, and the examples of 2.2 and 3.3.1.3.
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-00",
            // Unknown flags and versions to come.
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff",
            "cc-12345678901234567890123456789012-1234567890123456-01",
            "cc-12345678901234567890123456789012-1234567890123456-01-what-the-future-will-be-like",
        ] {
            let expected = u128::from_str_radix(&value[3..35], 16).ok();
            assert_eq!(
                trace_id(value.as_bytes()).map(NonZero::get),
                expected,
                "{value}"
            );
        }
    }

    #[test]
    fn what_is_not_valid_is_not_read() {
        for value in [
            "",
            "00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00F067AA0BA902B7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 ",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
            "cc-12345678901234567890123456789012-1234567890123456-01.what",
            ".0-12345678901234567890123456789012-1234567890123456-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        ] {
            assert_eq!(trace_id(value.as_bytes()), None, "{value:?}");
        }
    }

    #[test]
    fn two_of_them_are_none_and_a_new_trace_has_no_state() {
        let value = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static(value));
        headers.insert(TRACESTATE, HeaderValue::from_static("a=1"));
        let one = Trace::of(&headers);
        assert_eq!(one.origin, Origin::Client);
        assert!(one.stamp(&mut headers).is_ok());
        assert_eq!(
            headers.get(TRACEPARENT).map(HeaderValue::as_bytes),
            Some(value.as_bytes())
        );
        assert!(headers.contains_key(TRACESTATE));

        headers.append(TRACEPARENT, HeaderValue::from_static(value));
        let doubled = Trace::of(&headers);
        assert!(matches!(doubled.origin, Origin::Here(_)));
        assert_ne!(doubled.id(), one.id());
        assert!(doubled.stamp(&mut headers).is_ok());
        let stamped: Vec<_> = headers.get_all(TRACEPARENT).iter().collect();
        assert_eq!(stamped.len(), 1);
        assert_eq!(
            trace_id(stamped[0].as_bytes()).map(NonZero::get),
            Some(doubled.id())
        );
        assert!(!headers.contains_key(TRACESTATE));
    }
}
