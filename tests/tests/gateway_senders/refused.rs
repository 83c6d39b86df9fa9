//! What an attacker would try: nothing of it goes in.

use orket_tests::sender::{Parts, SENDERS, Sender};
use orket_tests::{Cases, Request, Upstream, refusal};

use super::{FIRST, OTHER, gateway, path};

/// The value with one letter or digit near its end changed into another of the same alphabet.
fn one_off(value: &str) -> String {
    let mut bytes = value.as_bytes().to_vec();
    let at = bytes
        .iter()
        .rposition(|b| *b == b',')
        .unwrap_or(bytes.len());
    // Of Stripe's list the `v0` at the end counts for nothing.
    let end = if value.starts_with("t=") {
        at
    } else {
        bytes.len()
    };
    let at = end - 10;
    bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
    String::from_utf8(bytes).unwrap()
}

/// The value in another case, behind its prefix.
fn other_case(value: &str) -> String {
    let short_prefix = value.find(['=', ',']).filter(|at| *at < 8);
    let (prefix, rest) = value.split_at(short_prefix.map_or(0, |at| at + 1));
    format!("{prefix}{}", rest.to_uppercase())
}

/// A delivery that must not go in: what is wrong with it, the request, and what the answer says.
type Bad = (String, Request, &'static str);

const WRONG: &str = "Invalid signature";
const MISSING: &str = "Missing signature";

#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn bad_deliveries(sender: &Sender) -> Vec<Bad> {
    let path = path(sender);
    let parts = Parts::fresh(FIRST);
    let good = sender.headers(&parts);
    let value = good[0].1.clone();
    let with = |value: &str| {
        let mut headers = good.clone();
        value.clone_into(&mut headers[0].1);
        Sender::request(&path, &headers, &parts.body)
    };
    let without = |name: &str| {
        let headers: Vec<_> = good.iter().filter(|(n, _)| n != name).cloned().collect();
        headers
    };
    let mut all: Vec<Bad> = vec![
        (
            "another secret".into(),
            sender.signed(&path, &Parts::fresh(OTHER)),
            WRONG,
        ),
        ("one bit off".into(), with(&one_off(&value)), WRONG),
        ("truncated".into(), with(&value[..value.len() / 2]), WRONG),
        ("longer".into(), with(&format!("{value}0")), WRONG),
        (
            "no signature".into(),
            Sender::request(&path, &without(&good[0].0), &parts.body),
            MISSING,
        ),
        ("an empty signature".into(), with(""), MISSING),
        (
            "a blank within".into(),
            with(&format!("{} {}", &value[..9], &value[9..])),
            WRONG,
        ),
        (
            "bytes that are not ASCII".into(),
            {
                let line = [good[0].0.as_bytes(), b": \xff\xfe", value.as_bytes()].concat();
                Sender::request(&path, &without(&good[0].0), &parts.body).line(line)
            },
            WRONG,
        ),
        ("another case".into(), with(&other_case(&value)), WRONG),
    ];
    if sender.name == "stripe" {
        // Behind the last comma stands a version that nobody reads.
        all.retain(|(what, ..)| what != "longer" && what != "another case");
        let upper = value.split(',').map(|item| match item.split_once("v1=") {
            Some((_, tag)) => format!("v1={}", tag.to_uppercase()),
            None => item.to_owned(),
        });
        all.push((
            "another case".into(),
            with(&upper.collect::<Vec<_>>().join(",")),
            WRONG,
        ));
        all.push((
            "two times".into(),
            with(&format!("t={},{value}", parts.time - 1)),
            WRONG,
        ));
        all.push((
            "no time".into(),
            with(value.split_once(',').unwrap().1),
            MISSING,
        ));
    }
    if sender.name != "gitlab_token" {
        let mut other = parts.body.clone();
        other[3] ^= 1;
        all.push((
            "one bit of the body off".into(),
            Sender::request(&path, &good, &other),
            WRONG,
        ));
        let another = Parts::fresh(FIRST).body;
        all.push((
            "the body of another delivery".into(),
            Sender::request(&path, &good, &another),
            WRONG,
        ));
        all.push(("no body".into(), Sender::request(&path, &good, b""), WRONG));
    }
    if let Some(tolerance) = sender.tolerance {
        for (what, seconds) in [("too old", -tolerance - 30), ("too new", tolerance + 30)] {
            let parts = parts.clone().away(seconds);
            all.push((what.to_owned(), sender.signed(&path, &parts), WRONG));
        }
    }
    if let Some(name) = sender.time {
        let time = parts.time.to_string();
        for (what, text) in [
            ("a sign before the time", format!("+{time}")),
            ("a zero before the time", format!("0{time}")),
            ("a fraction of a second", format!("{time}.0")),
            ("a digit of the body in the time", format!("{time}1")),
            ("a digit of the time in the body", time[..9].to_owned()),
            ("a separator in the time", format!("{time}:")),
        ] {
            let mut headers = without(name);
            headers.push((name.to_owned(), text));
            all.push((
                what.to_owned(),
                Sender::request(&path, &headers, &parts.body),
                WRONG,
            ));
        }
        let headers = without(name);
        all.push((
            "no time".into(),
            Sender::request(&path, &headers, &parts.body),
            MISSING,
        ));
    }
    if let Some((name, true)) = sender.id {
        for id in ["a.b", "a b", "\u{e9}", &"x".repeat(256)] {
            let parts = Parts {
                id: id.to_owned(),
                ..Parts::fresh(FIRST)
            };
            all.push((
                format!("the id {id:.9}"),
                sender.signed(&path, &parts),
                WRONG,
            ));
        }
        let headers = without(name);
        all.push((
            "no id".into(),
            Sender::request(&path, &headers, &parts.body),
            MISSING,
        ));
        let mut headers = without(name);
        headers.push((name.to_owned(), "another".to_owned()));
        all.push((
            "another id".into(),
            Sender::request(&path, &headers, &parts.body),
            WRONG,
        ));
    }
    all
}

#[tokio::test]
async fn what_is_not_proven_is_refused_and_nothing_of_it_goes_in() {
    let upstream = Upstream::tcp().await;
    let gateway = gateway(&upstream).await;
    let address = gateway.address();
    let mut cases = Cases::new();
    for sender in SENDERS {
        for (what, request, detail) in bad_deliveries(&sender) {
            let answer = request.send(address).await;
            let name = format!("{}: {what}", sender.name);
            cases.note(&name, refusal::judge(&answer, 401, detail));
        }
        // None of its headers may stand there twice, be lost on the way, or be spelled in two ways.
        let parts = Parts::fresh(FIRST);
        for (header, value) in sender.headers(&parts) {
            let twice = sender
                .signed(&path(&sender), &parts)
                .header(&header, &value);
            let nominated = sender
                .signed(&path(&sender), &parts)
                .header("Connection", &header);
            for (what, request) in [("twice", twice), ("nominated", nominated)] {
                let answer = request.send(address).await;
                let name = format!("{}: {header} {what}", sender.name);
                cases.note(&name, refusal::judge(&answer, 400, "Bad request"));
            }
        }
    }
    cases.finish();
    upstream.untouched("deliveries that are not proven");
}

#[tokio::test]
async fn a_signature_for_one_sender_opens_no_other_senders_route() {
    let upstream = Upstream::tcp().await;
    let gateway = gateway(&upstream).await;
    let mut cases = Cases::new();
    for from in SENDERS {
        for to in SENDERS {
            // These two are one scheme under one set of headers.
            let same = |name| ["gitlab_signing", "standard_webhooks"].contains(&name);
            if from.name == to.name || (same(from.name) && same(to.name)) {
                continue;
            }
            let request = from.signed(&path(&to), &Parts::fresh(FIRST));
            let answer = request.send(gateway.address()).await;
            cases.holds(
                &format!("{} at the door of {}", from.name, to.name),
                answer.status == 401,
                || format!("{} {}", answer.status, answer.text()),
            );
        }
    }
    cases.finish();
    upstream.untouched("deliveries of other senders");
}
