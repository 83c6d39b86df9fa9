//! Real deliveries: accepted byte for byte with the whole header set of a real sender, and refused
//! with one bit changed.

use orket_tests::corpus::{Body, gitea};
use orket_tests::gitea::sha256;
use orket_tests::{Gateway, Request, Upstream, assert_refused};

const PATH: &str = "/webhook/gitea";

fn request(entry: &Body, body: Vec<u8>) -> Request {
    let headers = entry
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    Request::new("POST", PATH).headers(headers).body(body)
}

async fn gateway(upstream: &Upstream, secret: &str) -> Gateway {
    let env = [
        ("GITEA_WEBHOOK_SECRET", secret),
        ("ORKET_RATE_LIMIT", "100000"),
        ("ORKET_FAILURE_LIMIT", "0"),
    ];
    Gateway::builtin(upstream.address(), &env).await
}

#[test]
fn the_corpus_is_what_its_index_says() {
    let bodies = gitea();
    assert_eq!(bodies.len(), 26);
    for entry in bodies {
        assert_eq!(entry.body.len(), entry.length, "{}", entry.file);
        assert_eq!(sha256(&entry.body), entry.sha256, "{}", entry.file);
        assert!(!entry.source.is_empty(), "{} names no source", entry.file);
    }
}

#[tokio::test]
async fn every_real_delivery_is_accepted_byte_for_byte() {
    let upstream = Upstream::tcp().await;
    let bodies = gitea();
    let gateway = gateway(&upstream, &bodies[0].secret).await;
    for entry in &bodies {
        assert_eq!(entry.secret, bodies[0].secret);
        let answer = request(entry, entry.body.clone())
            .send(gateway.address())
            .await;
        assert_eq!(answer.status, 200, "{}: {}", entry.file, answer.text());
        let recorded = upstream.last();
        assert!(
            recorded.body == entry.body,
            "{} was changed on the way",
            entry.file
        );
        assert_eq!(
            recorded.header("x-orket-webhook-event"),
            Some(entry.event_type.as_str())
        );
        assert_eq!(
            recorded.header("x-orket-webhook-key"),
            Some(entry.sha256.as_str())
        );
        let raw = String::from_utf8_lossy(&recorded.raw).to_lowercase();
        for (name, value) in &entry.headers {
            if name.to_lowercase().contains("signature") {
                assert!(
                    !raw.contains(&name.to_lowercase()) && !raw.contains(value),
                    "{}: {name}",
                    entry.file
                );
            }
        }
    }
    assert_eq!(upstream.count(), bodies.len());
}

#[tokio::test]
async fn every_real_delivery_is_refused_with_one_bit_changed() {
    let upstream = Upstream::tcp().await;
    let bodies = gitea();
    let gateway = gateway(&upstream, &bodies[0].secret).await;
    for entry in &bodies {
        for at in [0, entry.body.len() / 2, entry.body.len() - 1] {
            for bit in [0, 7] {
                let mut changed = entry.body.clone();
                changed[at] ^= 1 << bit;
                let answer = request(entry, changed).send(gateway.address()).await;
                assert_refused(&answer, 401, "Invalid signature");
            }
        }
        let mut longer = entry.body.clone();
        longer.push(b'\n');
        assert_refused(
            &request(entry, longer).send(gateway.address()).await,
            401,
            "Invalid signature",
        );
        let shorter = entry.body[..entry.body.len() - 1].to_vec();
        assert_refused(
            &request(entry, shorter).send(gateway.address()).await,
            401,
            "Invalid signature",
        );
    }
    upstream.untouched("changed deliveries");
}

#[tokio::test]
async fn every_real_delivery_is_refused_with_one_bit_of_its_signature_changed() {
    let upstream = Upstream::tcp().await;
    let bodies = gitea();
    let gateway = gateway(&upstream, &bodies[0].secret).await;
    for (n, entry) in bodies.iter().enumerate() {
        let mut changed = entry.clone();
        let position = changed
            .headers
            .iter()
            .position(|(name, _)| name == "X-Gitea-Signature")
            .unwrap();
        let value = &mut changed.headers[position].1;
        let mut mac = hex::decode(&*value).unwrap();
        mac[n] ^= 1 << (n % 8);
        *value = hex::encode(mac);
        let answer = request(&changed, entry.body.clone())
            .send(gateway.address())
            .await;
        assert_refused(&answer, 401, "Invalid signature");
    }
    upstream.untouched("changed signatures");
}

#[tokio::test]
async fn every_real_delivery_arrives_by_form_and_by_chunks_as_well() {
    let upstream = Upstream::tcp().await;
    let bodies = gitea();
    let gateway = gateway(&upstream, &bodies[0].secret).await;
    for entry in &bodies {
        let headers = entry
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let chunked = Request::new("POST", PATH)
            .headers(headers)
            .chunked(&entry.body, 1000);
        let answer = chunked.send(gateway.address()).await;
        assert_eq!(answer.status, 200, "{}: {}", entry.file, answer.text());
        assert!(upstream.last().body == entry.body, "{}", entry.file);
    }
}
