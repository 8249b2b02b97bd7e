//! `kubectl sluice`, as people and pipelines call it.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStderr, Command},
    time::timeout,
};

use crate::{space::Space, wait::seconds};

/// How a call ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Calls the plugin in a namespace, to its end.
pub async fn sluice(space: &Space, arguments: &[&str]) -> Result<Said> {
    Call::start(space, arguments)?.end().await
}

/// A call that has not ended.
pub struct Call {
    child: Child,
    err: BufReader<ChildStderr>,
    said: String,
}

impl Call {
    pub fn start(space: &Space, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new("kubectl");
        command.arg("sluice").args(arguments).args(["--namespace", &space.name]).env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("cannot run kubectl")?;
        let err = BufReader::new(child.stderr.take().context("no standard error")?);
        Ok(Self { child, err, said: String::new() })
    }

    /// Waits for its next line of progress.
    pub async fn line(&mut self) -> Result<()> {
        let read = timeout(seconds(20), self.err.read_line(&mut self.said)).await.context("the plugin says nothing for 20 s")?;
        ensure!(read? > 0, "the plugin has ended: {}", self.said);
        Ok(())
    }

    pub async fn end(mut self) -> Result<Said> {
        let (progress, output) = futures::join!(self.err.read_to_string(&mut self.said), self.child.wait_with_output());
        progress.context("the plugin's standard error")?;
        let output = output?;
        let code = output.status.code().with_context(|| format!("kubectl sluice: {}", output.status))?;
        Ok(Said { code, out: String::from_utf8_lossy(&output.stdout).into_owned(), err: self.said })
    }
}

impl Said {
    /// It ended with this code, and said this (in any of its outputs).
    pub fn expect(self, code: i32, words: &str) -> Result<Self> {
        let all = format!("{}{}", self.out, self.err);
        ensure!(self.code == code && all.contains(words), "expected exit code {code} and the words {words:?}, got {}:\n{all}", self.code);
        Ok(self)
    }
}
