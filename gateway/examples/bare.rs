//! A bare pingora proxy, to measure the gateway against: one key comparison, no policy. It is laid out
//! as the gateway is, one single-threaded service for each worker.
//!
//! `bare LISTEN UPSTREAM KEY THREADS`
#![expect(clippy::expect_used, reason = "a yardstick may fail loudly")]

use async_trait::async_trait;
use pingora_core::{
    Result,
    server::{Server, configuration::ServerConf},
    upstreams::peer::HttpPeer,
};
use pingora_http::ResponseHeader;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Clone)]
struct Bare {
    upstream: String,
    key: String,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    fn init_downstream_modules(&self, _modules: &mut pingora_core::modules::http::HttpModules) {}

    async fn request_filter(&self, session: &mut Session, _ctx: &mut ()) -> Result<bool> {
        let request = session.req_header();
        let unchecked = request.uri.path().starts_with("/webhook/");
        if unchecked
            || request
                .headers
                .get("x-api-key")
                .is_some_and(|k| k.as_bytes() == self.key.as_bytes())
        {
            return Ok(false);
        }
        let mut response = ResponseHeader::build(403, Some(1))?;
        response.insert_header("content-length", "0")?;
        session
            .write_response_header(Box::new(response), true)
            .await?;
        Ok(true)
    }

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(
            self.upstream.as_str(),
            false,
            String::new(),
        )))
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| {
        args.next()
            .unwrap_or_else(|| unreachable!("missing argument: {what}"))
    };
    let (listen, upstream, key) = (next("LISTEN"), next("UPSTREAM"), next("KEY"));
    let threads: usize = next("THREADS").parse().expect("THREADS is a number");
    let conf = ServerConf {
        threads: 1,
        work_stealing: false,
        max_retries: 2,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    for _ in 0..threads {
        let bare = Bare {
            upstream: upstream.clone(),
            key: key.clone(),
        };
        let mut service = http_proxy_service(&server.configuration, bare);
        service.threads = Some(1);
        service.add_tcp(&listen);
        server.add_service(service);
    }
    server.run_forever();
}
