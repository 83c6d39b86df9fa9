//! A request before pingora picks an upstream: judged by its head, and a webhook by its body as well.

use std::sync::Arc;

use jiff::Timestamp;
use pingora_proxy::Session;

use super::{Gateway, body, delivery::Pace};
use crate::{
    connection::Connection,
    denial::{Denial, Reason},
    exchange::{Exchange, method_name},
    guard::Credential,
    hearing::Hearing,
    pipeline::{self, Proven, Verdict},
    policy::{Spooling, address::client_address},
    request_head::RequestHead,
    trace::Trace,
};

/// What becomes of a request that was not refused.
pub(super) enum Decision {
    Health,
    Duplicate {
        route: Arc<str>,
    },
    /// By the courier, which can keep it.
    Deliver(Box<pipeline::Admitted>, Pace),
    Forward {
        admitted: Box<pipeline::Admitted>,
        websocket: bool,
    },
}

impl Gateway {
    /// Judges it, body included where that has to prove it.
    pub(super) async fn judge(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> Result<Decision, Denial> {
        let connection = Connection::of(session.digest()).ok_or(Reason::Internal)?;
        exchange.connection = Some(connection.clone());
        let now = Timestamp::now();
        let snapshot = exchange.snapshot.clone();
        // The gate has its own deadlines for all that is read.
        session.set_read_timeout(None);
        let request = session.req_header();
        exchange.trace = Trace::of(&request.headers);
        let client = client_address(
            connection.peer.ip(),
            &request.headers,
            &snapshot.policy.trusted_proxies,
        );
        exchange.client = Some(client);
        if let Some(reason) = connection.refused() {
            let allow = (reason == Reason::MethodNotAllowed)
                .then(|| "GET, HEAD, POST, PUT, PATCH, DELETE".to_owned());
            return Err(Denial {
                allow,
                ..reason.into()
            });
        }
        exchange.method = method_name(&request.method);
        let head = RequestHead::judge(request, connection.arrival(client))?;
        let websocket = head.websocket;
        let mut hearing = Hearing {
            snapshot: &snapshot,
            request_id: &exchange.request_id,
            now,
            witness: &mut exchange.shadowed,
        };
        match pipeline::judge_head(&mut hearing, &head)? {
            Verdict::Health => Ok(Decision::Health),
            Verdict::Admitted(admitted) => {
                if let Credential::Key(key) = admitted.credential() {
                    key.note_use(now);
                }
                body::welcome(session).await;
                Ok(Decision::Forward {
                    admitted,
                    websocket,
                })
            }
            Verdict::Unproven(unproven) => {
                let request = request.clone();
                body::welcome(session).await;
                // Once it is proven, its outcome is wanted even if the sender has gone.
                session.set_abort_on_close(false);
                let body = match body::read(session, &connection, &unproven).await {
                    Ok(body) => body,
                    Err(denial) => {
                        let denial = denial.on(unproven.route_id());
                        unproven.abandon(&snapshot);
                        return Err(denial);
                    }
                };
                let head = RequestHead::judge(&request, connection.arrival(client))?;
                let mut hearing = Hearing {
                    snapshot: &snapshot,
                    request_id: &exchange.request_id,
                    now: Timestamp::now(),
                    witness: &mut exchange.shadowed,
                };
                let route = unproven.route_id().clone();
                let proven =
                    pipeline::judge_body(&mut hearing, &self.edge.replay, &head, *unproven, body)?;
                self.edge.count_secret(&route, proven.secret());
                Ok(match proven {
                    Proven::Duplicate { .. } => Decision::Duplicate { route },
                    Proven::Deferred(admitted) => Decision::Deliver(admitted, Pace::Deferred),
                    Proven::Admitted(admitted) if admitted.route().spool == Spooling::On => {
                        Decision::Deliver(admitted, Pace::Now)
                    }
                    Proven::Admitted(admitted) => Decision::Forward {
                        admitted,
                        websocket: false,
                    },
                })
            }
        }
    }
}
