//! stub
use std::process::ExitCode;
/// Options.
#[derive(Debug, clap::Args)]
pub struct Options { /// url
 #[arg(long)] pub url: String }
/// Run.
pub fn run(_o: &Options) -> ExitCode { ExitCode::FAILURE }
