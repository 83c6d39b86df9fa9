//! What is proven goes in as it is, whichever of the secrets and of several signatures proves it.

use orket_tests::gitea::sha256;
use orket_tests::sender::{Parts, SENDERS, Sender};
use orket_tests::{Cases, Request, Upstream};

use super::{FIRST, OTHER, SECOND, gateway, path};

#[tokio::test]
async fn a_proven_delivery_goes_in_as_it_is_and_its_proof_stays_out() {
    let upstream = Upstream::tcp().await;
    let gateway = gateway(&upstream).await;
    let mut cases = Cases::new();
    for sender in SENDERS {
        for (n, secret) in [(1, FIRST), (2, SECOND)] {
            let parts = Parts::fresh(secret);
            let answer = sender
                .signed(&path(&sender), &parts)
                .send(gateway.address())
                .await;
            let name = format!("{} with its {n}. secret", sender.name);
            if answer.status != 200 || upstream.count() == 0 {
                cases.holds(&name, false, || {
                    format!("{} {}", answer.status, answer.text())
                });
                continue;
            }
            let sent = upstream.last();
            let signed_id = sender.id.is_some_and(|(_, signed)| signed);
            let key = if signed_id {
                parts.id.clone()
            } else {
                sha256(&parts.body)
            };
            // These write the event into the body; this one has none, and no header stands in for it.
            let named_within = ["linear", "circleci"].contains(&sender.name);
            let event = sender.event.filter(|_| !named_within);
            let as_it_is = sent.body == parts.body
                && sent.header("X-Orket-Webhook-Provider") == Some(sender.name)
                && sent.header("X-Orket-Webhook-Key") == Some(key.as_str())
                && sent.header("X-Orket-Webhook-Event") == event.map(|_| "thing.done")
                && sent.header("X-Orket-Webhook-Delivery") == sender.id.map(|_| parts.id.as_str());
            let proof = [
                Some(sender.signature.0),
                sender.time,
                sender
                    .id
                    .filter(|(_, signed)| *signed)
                    .map(|(name, _)| name),
            ];
            let kept_out = proof.iter().flatten().all(|name| !sent.names(name));
            cases.holds(&name, as_it_is && kept_out, || {
                String::from_utf8_lossy(&sent.raw).into_owned()
            });
        }
    }
    cases.finish();
    let page = Request::get("/metrics").send(gateway.admin()).await.text();
    for sender in SENDERS {
        for n in [1, 2] {
            let line = format!(
                "orket_gateway_webhook_secret_matched_total{{route=\"{0}\",secret=\"{0}.{n}\"}} 1",
                sender.name
            );
            assert!(page.contains(&line), "{line}: {page}");
        }
    }
}

#[tokio::test]
async fn one_of_several_signatures_is_enough_and_lists_are_bounded() {
    let upstream = Upstream::tcp().await;
    let gateway = gateway(&upstream).await;
    let mut cases = Cases::new();
    for (name, between) in [
        ("standard_webhooks", " "),
        ("pagerduty", ","),
        ("circleci", ","),
    ] {
        let sender = SENDERS.iter().find(|s| s.name == name).unwrap();
        let parts = Parts::fresh(FIRST);
        let good = sender.headers(&parts)[0].1.clone();
        let bad = (sender.signature.1)(&Parts {
            secret: OTHER.to_owned(),
            ..parts.clone()
        });
        let unknown = good.replace("v1", "v9");
        for (what, list, status) in [
            ("a good one last", vec![&bad, &unknown, &good], 200),
            ("the good one again", vec![&good, &good], 200),
            ("only bad ones", vec![&bad, &bad], 401),
            ("only of another version", vec![&unknown, &unknown], 401),
            ("seventeen", vec![&good; 17], 401),
        ] {
            // A new body each time, so that none is a repetition.
            let _ = what;
            let value = list
                .iter()
                .map(|s| s.as_str())
                .collect::<Vec<_>>()
                .join(between);
            let mut headers = sender.headers(&parts);
            headers[0].1 = value;
            let answer = Sender::request(&path(sender), &headers, &parts.body)
                .send(gateway.address())
                .await;
            cases.holds(&format!("{name}: {what}"), answer.status == status, || {
                format!("{} {}", answer.status, answer.text())
            });
        }
    }
    cases.finish();
}
