//! `explain` held against the real gateway: a few hundred requests, drawn from a seed, have to come out the same.
//!
//! `ORKET_DIFFERENTIAL_SEED` plays one seed again, `ORKET_DIFFERENTIAL_REQUESTS` more requests.

use std::collections::HashMap;
use std::fmt::Write as _;

use orket_tests::gateway::{API_KEY, PREAMBLE, WEBHOOK_SECRET, run};
use orket_tests::gitea::{sha256, signature};
use orket_tests::{Connection, Gateway, Reaction, Upstream};
use serde_json::Value;

/// A policy with an entrance of each kind, and bounds that small requests can go over.
fn policy() -> String {
    let digest = |key: &str| sha256(key.as_bytes());
    let (key, narrow, expired) = (digest(API_KEY), digest(NARROW), digest(EXPIRED));
    format!(
        r#"{PREAMBLE}
[client_address]
trusted_proxies = ["127.0.0.0/8"]
[limits]
head_bytes = "4KiB"
header_count = 20
body_timeout = "200ms"
failures_per_address = "none"
[secrets]
gitea = [{{ file = "{{dir}}/gitea-secret" }}]
ci = [{{ digest = "sha256:{key}" }}]
narrow = [{{ digest = "sha256:{narrow}" }}]
expired = [{{ digest = "sha256:{expired}" }}]
[[scopes]]
id = "read"
allow = ["GET /v1/*"]
[[keys]]
id = "ci"
secret = "ci"
scopes = ["*"]
[[keys]]
id = "narrow"
secret = "narrow"
scopes = ["read"]
[[keys]]
id = "expired"
secret = "expired"
scopes = ["*"]
expires = 2020-01-01T00:00:00Z
[[routes]]
id = "api"
path = "/v1/*"
methods = ["GET", "HEAD", "POST", "DELETE"]
auth = {{ kind = "api_key" }}
body_limit = "1KiB"
upstream = "backend"
[[routes]]
id = "events"
path = "/ws/events"
methods = ["GET"]
auth = {{ kind = "api_key" }}
upgrade = "websocket"
upstream = "backend"
[[routes]]
id = "open"
path = "/open/*"
methods = ["GET", "POST"]
auth = {{ kind = "none" }}
addresses = {{ deny = ["192.0.2.0/24"] }}
body_limit = "1KiB"
upstream = "backend"
[[routes]]
id = "small"
path = "/webhook/small"
methods = ["POST"]
auth = {{ kind = "webhook", provider = "gitea", secret = "gitea" }}
body_limit = "2KiB"
replay = false
upstream = "backend"
[[routes]]
id = "large"
path = "/webhook/large"
methods = ["POST"]
auth = {{ kind = "webhook", provider = "gitea", secret = "gitea" }}
body_limit = "200KiB"
replay = false
upstream = "backend"
[[routes]]
id = "test"
path = "/webhook/test"
methods = ["POST"]
auth = {{ kind = "test_webhook", enabled = true }}
upstream = "backend"
"#
    )
}

const NARROW: &str = "narrow-3Kf8Qz1Wm6Xc9Vb2Nn5Lp7Rt";
const EXPIRED: &str = "expired-9Hd4Gs7Jk2Yw5Ux8Tr1Pq3Zc";

/// Numbers from a seed: `SplitMix64`.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }
}

#[derive(Debug)]
struct Asked {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Asked {
    fn add(&mut self, name: &str, value: &str) {
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    fn given(&self, name: &str) -> bool {
        self.headers
            .iter()
            .any(|(n, _)| n.eq_ignore_ascii_case(name))
    }

    fn drawn(dice: &mut Dice) -> Self {
        let mut asked = match dice.below(5) {
            0 => Self::webhook(dice),
            _ => Self::plain(dice),
        };
        for _ in 0..dice.below(3) {
            asked.oddity(dice);
        }
        asked
    }

    fn plain(dice: &mut Dice) -> Self {
        let methods = [
            "GET", "GET", "GET", "POST", "POST", "PUT", "DELETE", "HEAD", "TRACE", "CONNECT",
            "get", "FOO", "G(T",
        ];
        let paths = [
            "/v1/runs",
            "/v1/runs",
            "/v1/runs?a=b&c=[d]",
            "/v1/",
            "/v1",
            "/v1/a%20b",
            "/v1/%c3%a4",
            "/v1/../x",
            "/v1/%2e%2e/x",
            "/v1//x",
            "/v1/%2fx",
            "/v1/%zz",
            "/v1;a/x",
            "/v1/a#b",
            "/v1/a?b#c",
            "/v1/a b",
            "/v1/\\x",
            "/v1/{x}",
            "/v1/x?q={x}",
            "/v1/x?q=%00",
            "/v1/ä",
            "/health",
            "/health?x",
            "/health/",
            "/ws/events",
            "/open/a",
            "/open/a",
            "/webhook/small",
            "/webhook/test",
            "/nowhere",
            "*",
            "http://localhost/v1/runs",
            "http://localhost",
            "http://LOCALHOST?x",
            "https://localhost/open/a",
            "http://other/v1/runs",
            "ftp://localhost/v1/runs",
            "v1/runs",
        ];
        let mut asked = Self {
            method: dice.of(&methods).to_owned(),
            path: dice.of(&paths).to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        };
        if !dice.one_in(4) {
            let key = dice.of(&[API_KEY, API_KEY, API_KEY, NARROW, EXPIRED, "nobody's", ""]);
            asked.add(dice.of(&["X-API-Key", "x-api-key", "X-Api-Key"]), key);
        }
        if dice.one_in(3) {
            asked.body = vec![b'x'; dice.of(&[1, 100, 1023, 1024, 1025, 5000])];
        }
        if dice.one_in(5) {
            asked.add("Transfer-Encoding", "chunked");
        }
        asked
    }

    fn webhook(dice: &mut Dice) -> Self {
        let size = dice.of(&[
            0, 2, 100, 2047, 2048, 2049, 65_535, 65_536, 65_537, 150_000, 204_801,
        ]);
        let letters: Vec<u8> = (b'a'..=b'z').collect();
        let body: Vec<u8> = (0..size).map(|_| dice.of(&letters)).collect();
        let right = signature(WEBHOOK_SECRET.as_bytes(), &body);
        let mut asked = Self {
            method: "POST".to_owned(),
            path: dice.of(&["/webhook/small", "/webhook/large"]).to_owned(),
            headers: Vec::new(),
            body,
        };
        match dice.below(8) {
            0 => {}
            1 => asked.add("X-Gitea-Signature", ""),
            2 => asked.add("X-Gitea-Signature", &right.to_uppercase()),
            3 => asked.add("X-Gitea-Signature", &right.replace('a', "b")),
            _ => asked.add("X-Gitea-Signature", &right),
        }
        if dice.one_in(3) {
            asked.add("Transfer-Encoding", "chunked");
        }
        asked
    }

    /// Something that is odd in one way.
    fn oddity(&mut self, dice: &mut Dice) {
        let length = self.body.len();
        match dice.below(24) {
            0 => self.add("Host", "localhost"),
            1 => self.add("Host", "local host"),
            2 => self.add("Content-Length", &length.to_string()),
            3 => self.add("Content-Length", &(length / 2).to_string()),
            4 if dice.one_in(3) => self.add("Content-Length", &(length + 5).to_string()),
            5 => self.add("Content-Length", &format!("+{length}")),
            6 => self.add("Content-Length", &format!("0{length}")),
            7 => self.add("Content-Length", "99999999999999999999"),
            8 => self.add(
                "Transfer-Encoding",
                dice.of(&["gzip", "chunked", "Chunked", "x, chunked"]),
            ),
            9 => self.add(
                "Connection",
                dice.of(&[
                    "close",
                    "x-api-key",
                    "keep-alive, x-other",
                    "X-Gitea-Signature",
                    "x y",
                ]),
            ),
            10 => {
                self.add("Connection", "Upgrade");
                self.add("Upgrade", dice.of(&["websocket", "WebSocket", "h2c"]));
            }
            11 => self.add("Upgrade", "websocket"),
            12 => self.add("Expect", dice.of(&["200-ok", "x", "100-continue, x"])),
            13 => self.add("Content-Encoding", "gzip"),
            14 => self.add(
                "X-Forwarded-For",
                dice.of(&["192.0.2.7", "198.51.100.7", "192.0.2.7, 127.0.0.1", "x"]),
            ),
            15 => self.add("X-Long", &"x".repeat(dice.of(&[3000, 4200]))),
            16 => (0..dice.of(&[10, 25])).for_each(|n| self.add(&format!("X-{n}"), "x")),
            17 => self.add("X A", "b"),
            18 => self.add("X-Tab", "a\tb"),
            19 => self.add("X-Text", "ä"),
            20 => self.add("X-API-Key", dice.of(&[API_KEY, "nobody's"])),
            21 => self.add("Content-Type", "application/x-www-form-urlencoded"),
            22 => self.add("X-Webhook-Test-Token", "x"),
            _ => self.add("Sec-Fetch-Site", "cross-site"),
        }
    }

    /// What a client would send.
    fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        if !self.given("host") {
            head.push_str("Host: localhost\r\n");
        }
        for (name, value) in &self.headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        let chunked = self.given("transfer-encoding");
        if !self.body.is_empty() && !chunked && !self.given("content-length") {
            write!(head, "Content-Length: {}\r\n", self.body.len()).unwrap();
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if !chunked {
            bytes.extend_from_slice(&self.body);
            return bytes;
        }
        for chunk in self.body.chunks(10_000) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        bytes
    }

    /// What `explain` says: the status, none where it would be forwarded, and the reason.
    async fn explained(&self, gateway: &Gateway) -> (Option<u64>, String) {
        let mut arguments = vec!["explain", "--config", "gateway.toml", "--format", "json"];
        arguments.extend(["--method", &self.method, "--path", &self.path]);
        let lines: Vec<String> = self
            .headers
            .iter()
            .map(|(n, v)| format!("--header={n}: {v}"))
            .collect();
        arguments.extend(lines.iter().map(String::as_str));
        if !self.body.is_empty() {
            std::fs::write(gateway.dir().join("body"), &self.body).unwrap();
            arguments.extend(["--body-file", "body"]);
        }
        let ended = run(gateway.dir(), &arguments, &[]).await;
        let said: Value = serde_json::from_str(&ended.stdout)
            .unwrap_or_else(|e| panic!("{self:?}: {e}: {}", ended.output()));
        let reason = said["reason"].as_str().or(said["verdict"].as_str());
        (said["status"].as_u64(), reason.unwrap().to_owned())
    }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Requests to one gateway: few enough that each refusal is written down, of which there is a bound.
const BATCH: u64 = 150;

/// A request, the status it really got, the id of its records, and what `explain` said.
type Compared = (Asked, u16, String, (Option<u64>, String));

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_comes_to_what_the_real_gateway_comes_to() {
    let seed = number("ORKET_DIFFERENTIAL_SEED", rand::random());
    let count = number("ORKET_DIFFERENTIAL_REQUESTS", 300);
    println!("ORKET_DIFFERENTIAL_SEED={seed}");
    let mut dice = Dice(seed);
    let mut wrong = Vec::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for begun in (0..count).step_by(usize::try_from(BATCH).unwrap()) {
        let (compared, outcomes) = compare(&mut dice, BATCH.min(count - begun)).await;
        for (request, status, id, (explained, reason)) in compared {
            let outcome = outcomes.get(&id).map_or("?", String::as_str);
            *seen.entry(outcome.to_owned()).or_default() += 1;
            let same = match explained {
                None => status == FORWARDED && reason == "forwarded",
                Some(200) => status == 200,
                Some(explained) => explained == u64::from(status) && reason == outcome,
            };
            if !same {
                let bytes = request.bytes();
                let head = String::from_utf8_lossy(&bytes[..bytes.len().min(600)]).into_owned();
                wrong.push(format!(
                    "explained as {explained:?} {reason}, really {status} {outcome} (a body of {}):\n{head}",
                    request.body.len()
                ));
            }
        }
    }
    println!("{seen:?}");
    assert!(
        wrong.is_empty(),
        "seed {seed}: {} of {count} differ\n{}",
        wrong.len(),
        wrong.join("\n---\n")
    );
    assert!(seen.len() > 12, "too few kinds of outcome: {seen:?}");
}

/// What the upstream answers, and nobody else.
const FORWARDED: u16 = 299;

/// Draws requests, sends each and asks about it. With them the outcomes by request id, as the log has them.
async fn compare(dice: &mut Dice, count: u64) -> (Vec<Compared>, HashMap<String, String>) {
    let upstream = Upstream::tcp().await;
    upstream.react(Reaction::json(FORWARDED, "{}"));
    let mut gateway = Gateway::before(upstream.address())
        .file("gitea-secret", WEBHOOK_SECRET.as_bytes())
        .policy(&policy())
        .start()
        .await;
    let mut compared = Vec::new();
    for _ in 0..count {
        let request = Asked::drawn(dice);
        let mut connection = Connection::open(gateway.address()).await;
        connection.send(&request.bytes()).await;
        let answer = connection.answer_to(&request.method).await;
        let id = answer.header("x-request-id").unwrap_or_default().to_owned();
        let explained = request.explained(&gateway).await;
        compared.push((request, answer.status, id, explained));
    }
    gateway.program().terminate().await;
    let outcomes = gateway
        .program()
        .stderr()
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|record| record["target"] == "access")
        .filter_map(|record| {
            let text = |name: &str| record[name].as_str().map(str::to_owned);
            Some((text("request_id")?, text("outcome")?))
        })
        .collect();
    (compared, outcomes)
}
