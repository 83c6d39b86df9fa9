//! TLS on both sides: who this gateway is to its clients ([`identity`]), and whom it believes inside ([`trust`]).
//!
//! One crypto provider serves the whole program, and it is named: whatever asks for "the default" gets
//! this one. Verification has no switch: there is no way to write a policy that sends a request to an
//! unverified upstream.

pub mod identity;
pub mod trust;

use std::sync::Arc;

use rustls::{
    SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    version::{TLS12, TLS13},
};

/// What is spoken. Older versions are broken (RFC 8996), and rustls has none of them.
const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// What is spoken inside TLS, as ALPN names it (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

/// The crypto of every connection.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Makes that provider the one of the whole process. To be called before anything else could choose another.
pub fn install_provider() {
    // An error means that one was chosen before, and this is called first.
    let _ = aws_lc_rs::default_provider().install_default();
}
