//! A command in a container that runs, bounded in time and output.

use std::{io, time::Duration};

use bollard::{
    container::LogOutput,
    errors::Error,
    exec::{CreateExecOptions, StartExecOptions, StartExecResults},
};
use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::{super::driver::Executed, engine::Engine};

/// Bytes of each stream that are answered at most.
const OUTPUT: usize = 1 << 20;

pub(super) async fn run(
    engine: &Engine,
    labels: &[String],
    command: Vec<String>,
    limit: Duration,
) -> io::Result<Executed> {
    let containers = engine.containers(labels).await?;
    let container = containers
        .iter()
        .find(|container| container.runs)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it does not run"))?;
    let docker = engine.docker().await?;
    let answer = async {
        let options = CreateExecOptions {
            cmd: Some(command),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..CreateExecOptions::default()
        };
        let made = docker.create_exec(&container.id, options).await?;
        let started = docker
            .start_exec(&made.id, None::<StartExecOptions>)
            .await?;
        let mut done = Executed::default();
        if let StartExecResults::Attached { mut output, .. } = started {
            while let Some(piece) = output.next().await {
                let (to, bytes) = match piece? {
                    LogOutput::StdErr { message } => (&mut done.stderr, message),
                    LogOutput::StdOut { message }
                    | LogOutput::StdIn { message }
                    | LogOutput::Console { message } => (&mut done.stdout, message),
                };
                let room = OUTPUT.saturating_sub(to.len());
                done.truncated |= bytes.len() > room;
                to.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
        }
        done.exit_code = docker.inspect_exec(&made.id).await?.exit_code;
        Ok::<_, Error>(done)
    };
    match timeout(limit, answer).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(io::Error::other(error.to_string())),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "it did not end in time; it may still run in its container",
        )),
    }
}
