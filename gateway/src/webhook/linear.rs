//! Linear.
//!
//! `Linear-Signature` is the lower-case hex of HMAC-SHA256 over the raw body. The time of sending stands in that body, as
//! `webhookTimestamp` in milliseconds; more than a minute off is to be refused (linear.app/developers/webhooks,
//! *Securing webhooks*). So it is read once the body is proven, and a body without it is refused. The event is in the
//! body's `type`, and in `Linear-Event`, not signed, as is the delivery's id in `Linear-Delivery`.

use std::time::Duration;

use serde::Deserialize;

use super::{
    Header, Provider,
    Role::{Event, Id, Signature},
    claim::{self, Claim, SignedTime},
    form,
    within::Path,
};
use crate::{denial::Reason, request_head::RequestHead};

/// See the [module](self).
#[derive(Debug)]
pub struct Linear;

static HEADERS: [Header; 3] = [
    Header::new("linear-signature", Signature),
    Header::new("linear-event", Event),
    Header::new("linear-delivery", Id),
];

/// The one field that is read; a second one of its name is an error, not a choice.
#[derive(Deserialize)]
struct Timed {
    #[serde(rename = "webhookTimestamp")]
    webhook_timestamp: Option<u64>,
}

impl Provider for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn headers(&self) -> &[Header] {
        &HEADERS
    }

    fn form(&self) -> &'static str {
        "bare lower-case hex, 64 digits"
    }

    fn claim(&self, head: &RequestHead<'_>) -> Result<Claim, Reason> {
        claim::tag(head, "linear-signature", b"", form::lower_hex).map(Claim::from)
    }

    fn tolerance(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn time_within(&self, payload: &[u8]) -> Result<Option<SignedTime>, Reason> {
        let timed: Timed =
            serde_json::from_slice(payload).map_err(|_| Reason::TimestampMalformed)?;
        let milliseconds = timed.webhook_timestamp.ok_or(Reason::TimestampMissing)?;
        SignedTime::of_milliseconds(milliseconds).map(Some)
    }

    fn event_within(&self) -> &[Path] {
        &[&["type"]]
    }

    fn written(&self, tag: &[u8], _given: &str) -> String {
        hex::encode(tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_one_whole_number_of_the_outermost_object() {
        let read = |body: &str| Linear.time_within(body.as_bytes()).map(|t| t.is_some());
        assert_eq!(
            read(r#"{"a":[1],"webhookTimestamp":1676056940508}"#),
            Ok(true)
        );
        for missing in [
            "{}",
            r#"{"webhookTimestamp":null}"#,
            r#"{"data":{"webhookTimestamp":1}}"#,
        ] {
            assert_eq!(read(missing), Err(Reason::TimestampMissing), "{missing}");
        }
        for bad in [
            "",
            "nothing of the kind",
            r#"{"webhookTimestamp":"1676056940508"}"#,
            r#"{"webhookTimestamp":1676056940508.5}"#,
            r#"{"webhookTimestamp":-1}"#,
            r#"{"webhookTimestamp":18446744073709551615}"#,
            r#"{"webhookTimestamp":1,"webhookTimestamp":2}"#,
            r#"{"webhookTimestamp":1}{"#,
        ] {
            assert_eq!(read(bad), Err(Reason::TimestampMalformed), "{bad}");
        }
    }
}
