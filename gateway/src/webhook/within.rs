//! Names that stand within a proven JSON body: the event, the sender's own id.
//!
//! Only read, never trusted with anything: what is found becomes a label. A body that is no JSON has none, and so has
//! one where the name could be read in two ways.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Where a name stands: the fields that lead to it, from the outermost object.
pub type Path = &'static [&'static str];

/// The longest name, as for those in a header.
const MOST_BYTES: usize = 200;

/// The first of these that is there, a short text of visible ASCII.
pub fn first(payload: &[u8], paths: &[Path]) -> Option<String> {
    paths.iter().find_map(|path| at(payload, path))
}

fn at(payload: &[u8], path: &[&str]) -> Option<String> {
    let mut json = serde_json::Deserializer::from_slice(payload);
    let found = Step(path).deserialize(&mut json).ok()?;
    json.end().ok()?;
    found
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= MOST_BYTES && text.bytes().all(|b| b.is_ascii_graphic())
}

/// What is left of the way.
struct Step<'p>(&'p [&'p str]);

impl<'de> DeserializeSeed<'de> for Step<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Self::Value, D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Step<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = object.next_key::<std::borrow::Cow<'_, str>>()? {
            match self.0 {
                [next, rest @ ..] if key == *next => {
                    // Which of two is meant?
                    if found.is_some() {
                        return Err(serde::de::Error::duplicate_field("name"));
                    }
                    found = Some(object.next_value_seed(Step(rest))?);
                }
                [..] => {
                    object.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found.flatten())
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok((self.0.is_empty() && is_name(text)).then(|| text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        while array.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_short_visible_text_at_its_place() {
        let event = |body: &str| first(body.as_bytes(), &[&["event", "type"], &["type"]]);
        for (body, expected) in [
            (r#"{"type":"a.b"}"#, Some("a.b")),
            (
                r#"{"x":[{"type":1}],"type":"outer","event":{"type":"inner"}}"#,
                Some("inner"),
            ),
            (r#"{"type":"outer","event":"text"}"#, Some("outer")),
            (r#"{"type":"outer","event":{"type":7}}"#, Some("outer")),
            (r#"{"type":2}"#, None),
            (r#"{"type":""}"#, None),
            (r#"{"type":"a b"}"#, None),
            (r#"{"type":"a\r\nb"}"#, None),
            (r#"{"type":"\u00e9"}"#, None),
            (r#"{"type":"a","type":"b"}"#, None),
            (r#"{"type":"a"}{"#, None),
            (r#"{"type":"a""#, None),
            (r#"[{"type":"a"}]"#, None),
            ("payload=%7B%7D", None),
            ("", None),
        ] {
            assert_eq!(event(body).as_deref(), expected, "{body}");
        }
        let long = |n: usize| event(&format!(r#"{{"type":"{}"}}"#, "a".repeat(n)));
        assert!(long(200).is_some() && long(201).is_none());
        let deep = format!(r#"{{"type":"a","x":{}"#, "[".repeat(100_000));
        assert_eq!(event(&deep), None);
    }
}
