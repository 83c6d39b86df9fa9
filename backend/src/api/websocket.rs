//! What a WebSocket needs beside what it tells: the handshake, a sign of life, an end.

use std::time::Duration;

use axum::{
    extract::ws::{Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use tokio::time::MissedTickBehavior;

use super::{ApiError, events::SIGN_OF_LIFE};

/// Something to tell, message by message.
pub(super) trait Story: Send + 'static {
    /// The next message; `None` at the end. Fine to drop half-way.
    fn next_message(&mut self) -> impl Future<Output = Option<String>> + Send;
}

/// Tells a story to whoever asked for a WebSocket.
pub(super) fn tell(upgrade: WebSocketUpgrade, story: impl Story) -> Response {
    upgrade
        .max_message_size(64 * 1024)
        .on_upgrade(move |socket| converse(socket, story))
}

/// What is answered to a request that is not the handshake of a WebSocket.
pub(super) fn refused(rejection: WebSocketUpgradeRejection) -> ApiError {
    let status = rejection.into_response().status();
    let status = if status.is_client_error() {
        status
    } else {
        StatusCode::BAD_REQUEST
    };
    let detail = "This address speaks WebSocket only.";
    ApiError::new(status, "not_a_websocket", detail)
}

/// Whoever takes nothing for too long is cut off by the connection itself: the writing fails.
async fn converse(mut socket: WebSocket, mut story: impl Story) {
    let mut life = tokio::time::interval(SIGN_OF_LIFE);
    life.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            told = story.next_message() => match told {
                Some(text) => Message::Text(text.into()),
                None => break,
            },
            _ = life.tick() => Message::Ping("".into()),
            // Read for the pongs and the close only.
            received = socket.recv() => match received {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
        };
        if socket.send(message).await.is_err() {
            return;
        }
    }
    // Going away: the peer learns why where it still listens.
    let _ = tokio::time::timeout(Duration::from_secs(1), socket.send(Message::Close(None))).await;
}
