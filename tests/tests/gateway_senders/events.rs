//! Event and id of a delivery, where the sender writes them into the body: what is proven comes before what a header says.

use orket_tests::sender::{Parts, SENDERS};
use orket_tests::{Cases, Upstream};

use super::{FIRST, gateway, path};

/// A body of each sender that names its event there, as its documentation shows it; the event and the id.
const BODIES: [(&str, &str, &str, Option<&str>); 8] = [
    (
        "stripe",
        r#"{"id":"evt_1NG8Du2eZvKYlo2CUI79vXWy","object":"event","data":{"object":{"id":"x","type":"card"}},"type":"setup_intent.created"}"#,
        "setup_intent.created",
        Some("evt_1NG8Du2eZvKYlo2CUI79vXWy"),
    ),
    (
        "slack",
        r#"{"team_id":"T1","event":{"type":"app_mention","user":"U1"},"type":"event_callback","event_id":"Ev08MFMKH6"}"#,
        "app_mention",
        Some("Ev08MFMKH6"),
    ),
    (
        "pagerduty",
        r#"{"event":{"id":"01BWPV4F","event_type":"incident.triggered","data":{"type":"incident"}}}"#,
        "incident.triggered",
        Some("01BWPV4F"),
    ),
    (
        "circleci",
        r#"{"type":"workflow-completed","id":"3888f21b-eaa7-38e3-8f3d-75a63bba8895"}"#,
        "workflow-completed",
        Some("3888f21b-eaa7-38e3-8f3d-75a63bba8895"),
    ),
    (
        "linear",
        r#"{"action":"create","type":"Comment","webhookTimestamp":{now}}"#,
        "Comment",
        None,
    ),
    (
        "discord",
        r#"{"version":1,"type":1,"event":{"type":"APPLICATION_AUTHORIZED","data":{}}}"#,
        "APPLICATION_AUTHORIZED",
        None,
    ),
    (
        "standard_webhooks",
        r#"{"type":"contact.created","timestamp":"2022-11-03T20:26:10Z","data":{}}"#,
        "contact.created",
        None,
    ),
    (
        "svix",
        r#"{"type":"invoice.paid","data":{}}"#,
        "invoice.paid",
        None,
    ),
];

#[tokio::test]
async fn an_event_that_stands_in_the_body_is_named_to_the_inside() {
    let upstream = Upstream::tcp().await;
    let gateway = gateway(&upstream).await;
    let mut cases = Cases::new();
    for (name, body, event, id) in BODIES {
        let sender = SENDERS.iter().find(|s| s.name == name).unwrap();
        let mut parts = Parts::fresh(FIRST);
        let now = format!("{}000", parts.time);
        parts.body = body.replace("{now}", &now).into();
        let answer = sender.signed(&path(sender), &parts);
        let answer = answer.send(gateway.address()).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let sent = upstream.last();
        // Of those that have both, the one in the body: it is proven.
        let own_id = sender.id.map(|_| parts.id.as_str());
        let named = sent.header("X-Orket-Webhook-Event") == Some(event)
            && sent.header("X-Orket-Webhook-Delivery") == own_id.or(id);
        cases.holds(name, named && sent.body == parts.body, || {
            String::from_utf8_lossy(&sent.raw).into_owned()
        });
    }
    cases.finish();
}

#[tokio::test]
async fn no_header_names_an_event_that_the_body_leaves_open() {
    let upstream = Upstream::tcp().await;
    let gateway = gateway(&upstream).await;
    let linear = SENDERS.iter().find(|s| s.name == "linear").unwrap();
    for body in [
        r#"{"type":"Issue","type":"Comment","webhookTimestamp":{now}}"#,
        r#"{"webhookTimestamp":{now}}"#,
    ] {
        let mut parts = Parts::fresh(FIRST);
        let now = format!("{}000", parts.time);
        parts.body = body.replace("{now}", &now).into();
        let request = linear.signed(&path(linear), &parts);
        let answer = request.send(gateway.address()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let raw = String::from_utf8_lossy(&upstream.last().raw).into_owned();
        assert!(raw.to_lowercase().contains("linear-event: "), "{raw}");
        assert!(!upstream.last().names("X-Orket-Webhook-Event"), "{raw}");
    }
}

#[tokio::test]
async fn what_is_no_plain_name_in_the_body_is_no_event() {
    let upstream = Upstream::tcp().await;
    let gateway = gateway(&upstream).await;
    let stripe = SENDERS.iter().find(|s| s.name == "stripe").unwrap();
    let mut cases = Cases::new();
    for body in [
        String::new(),
        "payload=1".to_owned(),
        r#"{"type":7}"#.to_owned(),
        r#"{"type":["a"]}"#.to_owned(),
        r#"{"type":"a b"}"#.to_owned(),
        r#"{"type":"a\r\nX-Orket-Actor: key:admin"}"#.to_owned(),
        r#"{"type":"\u00e9"}"#.to_owned(),
        r#"{"type":"a","type":"b"}"#.to_owned(),
        r#"{"data":{"type":"a"}}"#.to_owned(),
        format!(r#"{{"type":"{}"}}"#, "a".repeat(201)),
        "[".repeat(200_000),
    ] {
        let parts = Parts {
            body: body.clone().into(),
            ..Parts::fresh(FIRST)
        };
        let answer = stripe.signed(&path(stripe), &parts);
        let answer = answer.send(gateway.address()).await;
        let known = answer.json()["status"] == "duplicate";
        assert!(answer.status == 200 && !known, "{}", answer.text());
        let sent = upstream.last();
        let none = !sent.names("X-Orket-Webhook-Event")
            && sent.header("X-Orket-Actor") == Some("webhook:stripe");
        cases.holds(
            &format!("{body:.40}"),
            none && sent.body == parts.body,
            || String::from_utf8_lossy(&sent.raw[..500.min(sent.raw.len())]).into_owned(),
        );
    }
    cases.finish();
}
