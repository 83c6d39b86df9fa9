//! The proxies that are measured.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::Engine as _;

use super::{KEY, SECRET};

/// A proxy under measurement; ended when dropped.
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    /// CPU time spent so far, user and system (proc(5), `stat` fields 14 and 15).
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    /// Its resident memory.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

fn program(name: &str) -> PathBuf {
    let path = std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join(name);
    assert!(
        path.exists(),
        "{} is missing: cargo build --release -p orket-gateway --bins --examples",
        path.display()
    );
    path
}

/// Where access records go: written like any other, unless `ORKET_BENCH_ACCESS` says otherwise (`off`), which shows
/// what they cost.
fn access_log() -> String {
    std::env::var("ORKET_BENCH_ACCESS").unwrap_or_else(|_| "/dev/null".to_owned())
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

fn wait_for(address: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "{address} does not answer");
        std::thread::yield_now();
    }
}

/// The gateway with the policy that is measured.
pub(crate) fn gateway(dir: &Path, upstream: SocketAddr, threads: usize) -> Proxy {
    let address = free_port();
    let admin = free_port();
    std::fs::write(dir.join("key"), KEY).unwrap();
    std::fs::write(dir.join("secret"), SECRET).unwrap();
    let policy = format!(
        r#"version = 1
[listen]
http = "{address}"
admin = "{admin}"
threads = {threads}
[limits]
failures_per_address = "1000000000/s"
[upstreams.backend]
address = "{upstream}"
[secrets]
key = [{{ file = "{dir}/key" }}]
gitea = [{{ file = "{dir}/secret" }}]
[[keys]]
id = "bench"
secret = "key"
scopes = ["*"]
[[rate_limits]]
id = "per-key"
by = "key"
rate = "1000000000/s"
[[rate_limits]]
id = "per-source"
by = "source"
rate = "1000000000/s"
[[routes]]
id = "api"
path = "/v1/*"
methods = ["GET"]
auth = {{ kind = "api_key" }}
rate_limits = ["per-key"]
upstream = "backend"
[[routes]]
id = "gitea"
path = "/webhook/gitea"
methods = ["POST"]
auth = {{ kind = "webhook", provider = "gitea", secret = "gitea" }}
rate_limits = ["per-source"]
body_limit = "2MiB"
upstream = "backend"
"#,
        dir = dir.display()
    );
    let file = dir.join("gateway.toml");
    std::fs::write(&file, policy).unwrap();
    let child = Command::new(program("orket-gateway"))
        .args(["serve", "--config"])
        .arg(&file)
        .env("ORKET_LOG", "error")
        .env("ORKET_LOG_ACCESS", access_log())
        .env("ORKET_LOG_AUDIT", "/dev/null")
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    wait_for(address);
    Proxy {
        name: "orket-gateway",
        child,
        address,
    }
}

/// A pingora proxy that checks one key.
pub(crate) fn bare(upstream: SocketAddr, threads: usize) -> Proxy {
    let address = free_port();
    let child = Command::new(program("examples/bare"))
        .args([
            address.to_string(),
            upstream.to_string(),
            KEY.to_owned(),
            threads.to_string(),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for(address);
    Proxy {
        name: "bare pingora",
        child,
        address,
    }
}

/// `HAProxy` with the same key, signature and limits, where it is installed.
pub(crate) fn haproxy(dir: &Path, upstream: SocketAddr, threads: usize) -> Option<Proxy> {
    let address = free_port();
    let secret = base64::engine::general_purpose::STANDARD.encode(SECRET);
    let settings = format!(
        "global
  nbthread {threads}
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend edge
  bind {address}
  option http-buffer-request
  stick-table type string len 64 size 100k expire 60s store http_req_rate(1s)
  acl hook path /webhook/gitea
  http-request track-sc0 req.hdr(x-api-key) if !hook
  http-request track-sc0 path if hook
  http-request return status 403 content-type text/plain string no if !hook !{{ req.hdr(x-api-key) -m str {KEY} }}
  http-request set-var(txn.mac) req.hdr(x-gitea-signature) if hook
  http-request return status 401 content-type text/plain string no if hook !{{ req.body,hmac(sha256,{secret}),hex,lower,strcmp(txn.mac) eq 0 }}
  http-request return status 429 content-type text/plain string no if {{ sc_http_req_rate(0) gt 1000000000 }}
  http-request del-header x-api-key
  http-request set-header x-forwarded-for %[src]
  default_backend inside
backend inside
  server upstream {upstream}
"
    );
    let file = dir.join("haproxy.cfg");
    std::fs::write(&file, settings).unwrap();
    let child = Command::new("haproxy")
        .args(["-db", "-q", "-f"])
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .ok()?;
    wait_for(address);
    Some(Proxy {
        name: "HAProxy",
        child,
        address,
    })
}
