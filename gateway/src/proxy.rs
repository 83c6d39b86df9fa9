//! The phases of pingora, each a few lines: judge, then forward or refuse.
//!
//! A webhook's body is read and proven in `request_filter`, before pingora picks an upstream. The
//! permit to forward is an [`Admitted`](crate::pipeline::Admitted) in the exchange; `upstream_peer` answers 500 where there is
//! none, so a forgotten branch cannot forward.

mod answer;
mod body;
mod delivery;
mod failure;
mod judge;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{StatusCode, Version};
use pingora_core::{
    Error,
    ErrorType::HTTPStatus,
    Result,
    protocols::Digest,
    upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy},
};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use self::judge::Decision;
use crate::{
    account::End,
    connection::framing::Framing,
    denial::Denial,
    edge::Edge,
    exchange::{Exchange, Flow, Stage},
    pipeline::Body,
    policy::{Upgrade, Upstream, UpstreamAddress},
    streams::{Claim, Kind},
    tls::trust::Trust,
    upstream,
};

/// How long an unused connection to an upstream is kept. Shorter than what servers keep theirs, so that a
/// request is not sent into a connection that is just being closed.
const UPSTREAM_IDLE: std::time::Duration = std::time::Duration::from_secs(10);

/// The gateway as pingora sees it.
#[derive(Debug)]
pub struct Gateway {
    edge: Arc<Edge>,
}

impl Gateway {
    /// A gateway over the state all workers share.
    pub fn new(edge: Arc<Edge>) -> Self {
        Self { edge }
    }

    async fn refuse(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        denial: &Denial,
    ) -> Result<()> {
        let route = match std::mem::replace(&mut exchange.stage, Stage::Judging) {
            Stage::Admitted { admitted, .. } | Stage::Spooled { admitted } => {
                Some(admitted.route().id.clone())
            }
            Stage::Refused { route, .. } => route,
            Stage::Duplicate { route } => Some(route),
            Stage::Judging | Stage::Health => denial.route.clone(),
        };
        exchange.stage = Stage::Refused {
            reason: denial.reason,
            route,
            key: denial.key.clone(),
            limit: denial.standing.as_ref().map(|s| s.policy.clone()),
        };
        if denial.reason.facts().status == StatusCode::BAD_REQUEST.as_u16() {
            // Whoever sends what can be read in two ways may have more of it.
            session.set_keepalive(None);
        }
        answer::denial(session, denial, &exchange.request_id).await
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Exchange;

    fn new_ctx(&self) -> Exchange {
        Exchange::new(self.edge.clone())
    }

    fn init_downstream_modules(&self, _modules: &mut pingora_core::modules::http::HttpModules) {
        // None: answers pass as they are, uncompressed.
    }

    async fn request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
        match self.judge(session, exchange).await {
            Ok(Decision::Forward {
                admitted,
                websocket,
            }) => {
                exchange.stage = Stage::Admitted {
                    admitted,
                    passed: 0,
                    websocket,
                };
                Ok(false)
            }
            Ok(Decision::Deliver(admitted, pace)) => self
                .deliver(session, exchange, admitted, pace)
                .await
                .map(|()| true),
            Ok(Decision::Health) => {
                exchange.stage = Stage::Health;
                answer::ok(session, "{\"status\":\"ok\"}", &exchange.request_id)
                    .await
                    .map(|()| true)
            }
            Ok(Decision::Duplicate { route }) => {
                exchange.stage = Stage::Duplicate { route };
                answer::ok(session, "{\"status\":\"duplicate\"}", &exchange.request_id)
                    .await
                    .map(|()| true)
            }
            Err(denial) => self.refuse(session, exchange, &denial).await.map(|()| true),
        }
    }

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        exchange: &mut Exchange,
    ) -> Result<Box<HttpPeer>> {
        let Stage::Admitted {
            admitted,
            websocket,
            ..
        } = &exchange.stage
        else {
            return Err(no_permit());
        };
        let route = admitted.route();
        let upstream = upstream_of(exchange, route.upstream)?;
        let mut peer = match &upstream.address {
            UpstreamAddress::Unix(path) => HttpPeer::new_uds(path, false, String::new())?,
            UpstreamAddress::Tcp(address) => {
                let name = upstream.trust.as_ref().map(Trust::name).unwrap_or_default();
                HttpPeer::new(address, upstream.trust.is_some(), name)
            }
        };
        if let Some(trust) = &upstream.trust {
            trust.demand_of(&mut peer);
        }
        let options = &mut peer.options;
        options.connection_timeout = Some(upstream.connect_timeout);
        options.total_connection_timeout = Some(upstream.connect_timeout);
        options.read_timeout = Some(upstream.response_timeout);
        // pingora's own timeout would cut an event stream that is silent. While it waits for an answer it reads from the client's
        // connection, which counts instead; with a body to send it may not come to that.
        if let Some(connection) = &exchange.connection
            && connection.framing() == Framing::None
        {
            connection.await_answer(upstream.response_timeout);
            options.read_timeout = None;
        }
        options.write_timeout = Some(upstream.response_timeout);
        options.idle_timeout = Some(UPSTREAM_IDLE);
        options.http_upstream_request_policy = match route.upgrade {
            Upgrade::WebSocket if *websocket => HttpUpstreamRequestPolicy::standard(),
            Upgrade::WebSocket | Upgrade::None => HttpUpstreamRequestPolicy::deny_upgrades(),
        };
        let index = route.upstream;
        exchange.try_upstream(index);
        Ok(Box::new(peer))
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::unix::io::RawFd,
        _digest: Option<&Digest>,
        exchange: &mut Exchange,
    ) -> Result<()> {
        if let Some(leg) = &mut exchange.upstream {
            leg.seen.reused = Some(reused);
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream_request: &mut RequestHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        let Stage::Admitted { admitted, .. } = &exchange.stage else {
            return Err(no_permit());
        };
        let upstream = upstream_of(exchange, admitted.route().upstream)?;
        // Judged before, and a request's head does not change.
        let facts = facts(session.req_header(), exchange).ok_or_else(no_permit)?;
        upstream::prepare(
            upstream_request,
            admitted,
            upstream,
            &facts,
            Some(&exchange.trace),
        )
        .map_err(|_| no_permit())
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        exchange: &mut Exchange,
    ) -> Result<()> {
        let Stage::Admitted {
            admitted,
            passed,
            websocket,
        } = &mut exchange.stage
        else {
            return Err(no_permit());
        };
        match admitted.body() {
            // The proven bytes, whole and at once. Cloned, not taken: a retry asks again.
            Body::Proven(proven) => {
                *body = Some(if end_of_stream {
                    proven.bytes().clone()
                } else {
                    Bytes::new()
                });
                *passed = body.as_ref().map_or(0, Bytes::len);
                Ok(())
            }
            Body::Stream { .. } if *websocket => Ok(()),
            Body::Stream { limit } => {
                *passed += body.as_ref().map_or(0, Bytes::len);
                if *passed > *limit {
                    Err(status(StatusCode::PAYLOAD_TOO_LARGE))
                } else {
                    Ok(())
                }
            }
        }
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        exchange.upstream_answered();
        if let Some(connection) = &exchange.connection {
            connection.heard();
        }
        let Stage::Admitted {
            admitted,
            passed,
            websocket,
        } = &exchange.stage
        else {
            return Err(no_permit());
        };
        // Done is what the upstream took whole and answered with 2xx. Remembered before the answer goes out, so
        // that a repetition right after it is known.
        if let (Some(delivery), Body::Proven(proven)) = (admitted.delivery(), admitted.body())
            && delivery.remember
            && response.status.is_success()
            && *passed >= proven.bytes().len()
        {
            let upstream = upstream_of(exchange, admitted.route().upstream)?;
            self.edge
                .replay
                .done(&delivery.source, &upstream.id, &delivery.key);
        }
        if !response.status.is_server_error() {
            self.edge
                .heard(&upstream_of(exchange, admitted.route().upstream)?.id);
        }
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            match (*websocket, &exchange.connection) {
                (true, Some(connection)) => {
                    connection.become_tunnel();
                    exchange.flow = Flow::Stream;
                }
                // Nobody asked for it.
                (true | false, _) => return Err(status(StatusCode::BAD_GATEWAY)),
            }
        }
        if session.req_header().version == Version::HTTP_10 {
            answer::in_http_1_0(session, response);
        }
        if is_event_stream(response) {
            exchange.flow = Flow::Stream;
            if let Some(connection) = &exchange.connection {
                connection.become_events();
            }
        }
        answer::stamp(response, &exchange.request_id, admitted.standings())?;
        let request = session.req_header();
        if let (Some(kind), Some(connection), Some(client)) = (
            Kind::of(&request.method, response),
            &exchange.connection,
            exchange.client,
        ) {
            let path = request.uri.path();
            let claim = Claim {
                request_id: exchange.request_id.clone(),
                method: request.method.clone(),
                path: path.to_owned(),
                client,
                route: admitted.route().id.clone(),
                actor: admitted.actor().clone(),
                credential: admitted.credential().clone(),
                kind,
            };
            let stream = self.edge.enter_stream(claim, connection.clone());
            exchange.stream = Some(stream);
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        _body: &mut Option<Bytes>,
        _end_of_stream: bool,
        exchange: &mut Exchange,
    ) -> Result<Option<std::time::Duration>> {
        if let (Flow::Answer, Some(connection)) = (exchange.flow, &exchange.connection) {
            connection.heard();
        }
        Ok(None)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        e: &Error,
        exchange: &mut Exchange,
    ) -> FailToProxy {
        FailToProxy {
            error_code: self.fail(session, e, exchange).await,
            can_reuse_downstream: false,
        }
    }

    async fn logging(&self, session: &mut Session, _e: Option<&Error>, exchange: &mut Exchange) {
        let answer = session.response_written();
        exchange.end(End {
            status: answer.map_or(0, |r| r.status.as_u16()),
            bytes_in: session.body_bytes_read() as u64,
            bytes_out: session.body_bytes_sent() as u64,
        });
    }
}

/// The facts about a request that was judged; `None` where something is missing, which a judged one never lacks.
fn facts<'a>(request: &'a RequestHeader, exchange: &'a Exchange) -> Option<upstream::Facts<'a>> {
    let target = std::str::from_utf8(request.raw_path()).ok()?;
    let (path, query) = target
        .split_once('?')
        .map_or((target, None), |(path, query)| (path, Some(query)));
    Some(upstream::Facts {
        request_id: &exchange.request_id,
        client: exchange.client?,
        scheme: exchange.connection.as_ref()?.scheme,
        host: request.headers.get(http::header::HOST)?.to_str().ok()?,
        path,
        query,
    })
}

/// Whether an answer is server-sent events.
fn is_event_stream(response: &ResponseHeader) -> bool {
    let kind = response.headers.get(http::header::CONTENT_TYPE);
    let name = b"text/event-stream";
    kind.and_then(|kind| kind.as_bytes().get(..name.len()))
        .is_some_and(|kind| kind.eq_ignore_ascii_case(name))
}

fn upstream_of(exchange: &Exchange, index: usize) -> Result<&Upstream> {
    exchange
        .snapshot
        .policy
        .upstreams
        .get(index)
        .ok_or_else(no_permit)
}

#[expect(
    clippy::unnecessary_box_returns,
    reason = "the form pingora wants errors in"
)]
fn status(code: StatusCode) -> Box<Error> {
    Error::new(HTTPStatus(code.as_u16()))
}

/// Nothing is forwarded without a permit.
#[expect(
    clippy::unnecessary_box_returns,
    reason = "the form pingora wants errors in"
)]
fn no_permit() -> Box<Error> {
    status(StatusCode::INTERNAL_SERVER_ERROR)
}
