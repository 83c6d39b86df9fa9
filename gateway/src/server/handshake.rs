//! The TLS handshake of one connection, on its worker: in time, or not at all.
//!
//! It holds its place among the connections while it lasts, so handshakes are capped as connections are,
//! and a client that stalls holds up nobody but itself. Why one fails is counted and logged, quietly:
//! whoever scans the internet fails handshakes all day.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use orket_shared::{
    header::REQUEST_ID,
    id::new_ulid,
    problem::{self, Problem},
};
use rustls::{AlertDescription, Error as TlsError};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::caps::Place;
use crate::{
    connection::{Slot, Socket, farewell},
    denial::status_phrase,
    edge::Edge,
    metrics::HandshakeLabels,
};

/// Why a handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// It was not over in time.
    Timeout,
    /// The client went away.
    Gone,
    /// The client spoke plain HTTP.
    PlainHttp,
    /// The client speaks nothing over TLS that is spoken here, such as HTTP/2 only.
    Protocol,
    /// The client speaks no TLS 1.2 or 1.3, or no cipher that is spoken here.
    Version,
    /// The client does not believe the certificate.
    Distrusted,
    /// What came is not TLS.
    Malformed,
    /// A reload took the certificate away; a restart takes the listener.
    NoCertificate,
}

impl Failure {
    /// As the metric and the log say it.
    const fn word(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Gone => "gone",
            Self::PlainHttp => "plain_http",
            Self::Protocol => "no_common_protocol",
            Self::Version => "no_common_version",
            Self::Distrusted => "certificate_distrusted",
            Self::Malformed => "malformed",
            Self::NoCertificate => "no_certificate",
        }
    }

    fn of(e: &io::Error) -> Self {
        let Some(e) = e.get_ref().and_then(|e| e.downcast_ref::<TlsError>()) else {
            return Self::Gone;
        };
        if let TlsError::AlertReceived(alert) = e {
            Self::of_alert(*alert)
        } else if matches!(e, TlsError::NoApplicationProtocol) {
            Self::Protocol
        } else if matches!(e, TlsError::PeerIncompatible(_)) {
            Self::Version
        } else {
            Self::Malformed
        }
    }

    /// The client gave up, and said why.
    fn of_alert(alert: AlertDescription) -> Self {
        use AlertDescription as A;
        if matches!(alert, A::ProtocolVersion | A::HandshakeFailure) {
            Self::Version
        } else if matches!(
            alert,
            A::UnknownCA
                | A::BadCertificate
                | A::CertificateUnknown
                | A::CertificateExpired
                | A::UnsupportedCertificate
                | A::CertificateRevoked
        ) {
            Self::Distrusted
        } else {
            Self::Gone
        }
    }
}

/// Makes the handshake under the certificate of the policy in force. The place goes with the connection.
pub(super) async fn accept(
    edge: &Arc<Edge>,
    socket: TcpStream,
    peer: SocketAddr,
    within: Duration,
    place: Place,
) -> Option<(TlsStream<TcpStream>, Box<dyn Slot>)> {
    let slot: Box<dyn Slot> = Box::new(place);
    let shaken = tokio::time::timeout(within, shake(edge, socket)).await;
    let failure = match shaken {
        Ok(Ok(stream)) => return Some((stream, slot)),
        Ok(Err(Shaken::Failed(failure))) => failure,
        Ok(Err(Shaken::Plain(socket))) => {
            tokio::spawn(farewell(
                Socket::Plain(socket),
                BytesMut::from(plain_answer().as_bytes()),
                true,
                Some(slot),
            ));
            Failure::PlainHttp
        }
        Err(_) => Failure::Timeout,
    };
    let reason = failure.word();
    edge.metrics
        .tls_handshake_failures
        .inc(&HandshakeLabels { reason });
    edge.log.handshake_failed(peer.ip(), reason);
    None
}

enum Shaken {
    Failed(Failure),
    /// The client speaks plain HTTP, and may be told so.
    Plain(TcpStream),
}

async fn shake(edge: &Edge, socket: TcpStream) -> Result<TlsStream<TcpStream>, Shaken> {
    let mut first = [0];
    // Every TLS record of a handshake begins with 22 (RFC 8446, section 5.1), every HTTP request with a letter.
    match socket.peek(&mut first).await {
        Ok(1..) if first[0].is_ascii_alphabetic() => return Err(Shaken::Plain(socket)),
        Ok(1..) => {}
        Ok(0) | Err(_) => return Err(Shaken::Failed(Failure::Gone)),
    }
    let snapshot = edge.snapshot();
    let identity = snapshot.policy.identity.as_ref();
    let config = identity
        .ok_or(Shaken::Failed(Failure::NoCertificate))?
        .config();
    drop(snapshot);
    TlsAcceptor::from(config)
        .accept(socket)
        .await
        .map_err(|e| Shaken::Failed(Failure::of(&e)))
}

/// The answer to a plain request: in the one shape, over a connection that ends.
fn plain_answer() -> String {
    let id = new_ulid();
    let problem =
        Problem::new(400, status_phrase(400), "bad_request", "Use https here").with_request_id(&id);
    let body = serde_json::to_string(&problem).unwrap_or_default();
    format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: {}\r\n{REQUEST_ID}: {id}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n{body}",
        problem::CONTENT_TYPE,
        body.len(),
    )
}
