//! A request that pingora could not bring to its end: why, and what its caller is told.

use pingora_core::{
    Error, ErrorSource,
    ErrorType::{self, HTTPStatus},
};
use pingora_proxy::Session;

use super::Gateway;
use crate::{
    denial::{Denial, Reason},
    exchange::{Exchange, Flow},
    tls::trust,
};

/// When to come back after the upstream failed.
const UPSTREAM_RETRY: std::time::Duration = std::time::Duration::from_secs(1);

impl Gateway {
    /// Answers it where that can still be done. The status; 0 where nothing was answered.
    pub(super) async fn fail(
        &self,
        session: &mut Session,
        e: &Error,
        exchange: &mut Exchange,
    ) -> u16 {
        let reason = reason_of(e, exchange);
        let answered = session.response_written().is_some();
        // Whoever asked has gone away; nobody reads an answer, and nothing is wrong here.
        let gone = reason == Reason::Internal
            && (matches!(e.esource(), ErrorSource::Downstream)
                || matches!(
                    e.etype(),
                    ErrorType::WriteError | ErrorType::ConnectionClosed
                ));
        if reason == Reason::Internal && !gone {
            tracing::error!(
                event = "fault",
                request_id = exchange.request_id,
                kind = e.etype().as_str(),
                "a fault inside the gateway"
            );
        }
        if answered && !gone && exchange.flow == Flow::Answer {
            exchange.cut = Some(reason);
        }
        if answered || gone {
            0
        } else {
            // What is broken may be mended in a moment; whether to repeat is the caller's to know.
            let wait = matches!(
                reason,
                Reason::UpstreamUnavailable
                    | Reason::UpstreamTimeout
                    | Reason::UpstreamTlsName
                    | Reason::UpstreamTlsExpired
                    | Reason::UpstreamTlsIssuer
                    | Reason::UpstreamTlsFailed
            );
            let denial = Denial {
                retry_after: wait.then_some(UPSTREAM_RETRY),
                ..reason.into()
            };
            match self.refuse(session, exchange, &denial).await {
                Ok(()) => reason.facts().status,
                Err(_) => 0,
            }
        }
    }
}

/// The reason behind an error of pingora's.
fn reason_of(e: &Error, exchange: &Exchange) -> Reason {
    if let Some(connection) = &exchange.connection {
        if let Some(reason) = connection.body_refused() {
            return reason;
        }
        if connection.answer_is_late() {
            return Reason::UpstreamTimeout;
        }
    }
    match (e.etype(), e.esource()) {
        (HTTPStatus(413), _) => Reason::BodyTooLarge,
        (HTTPStatus(502), _) => Reason::UpstreamUnavailable,
        (ErrorType::TLSHandshakeFailure | ErrorType::InvalidCert, _) => {
            trust::reason_of(&e.to_string())
        }
        (
            ErrorType::ConnectTimedout | ErrorType::ReadTimedout | ErrorType::WriteTimedout,
            ErrorSource::Upstream,
        ) => Reason::UpstreamTimeout,
        (_, ErrorSource::Upstream) => Reason::UpstreamUnavailable,
        (_, ErrorSource::Downstream | ErrorSource::Internal | ErrorSource::Unset) => {
            Reason::Internal
        }
    }
}
