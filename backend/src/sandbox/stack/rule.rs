//! What a compose file is refused for, and where. The reference page is made from it.

use std::{fmt::Write as _, ops::Range};

use crate::config::diagnostic::Diagnostic;

/// What a refusal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// It cannot be read as YAML of plain characters.
    NotYaml,
    /// The file has more bytes, values, levels or entries than are read.
    TooLarge,
    /// An anchor or an alias.
    Anchor,
    /// A tag.
    Tag,
    /// More than one document.
    Documents,
    /// A key twice.
    DuplicateKey,
    /// A merge, `<<`.
    MergeKey,
    /// A scalar that readers take for different things.
    Ambiguous,
    /// A value that would come from an environment.
    Interpolation,
    /// A key that is not on the list.
    UnknownKey,
    /// A key that begins with `x-`.
    Extension,
    /// It gives a container rights, or weakens what confines it.
    Privilege,
    /// It shares a namespace of the host or of another container.
    HostNamespace,
    /// It reaches into the host's files.
    HostPath,
    /// It reaches devices or another runtime.
    Device,
    /// It reads another file.
    OtherFile,
    /// It builds an image in another way than from plain files of the repository.
    Build,
    /// It names what is named, or owned, by somebody else.
    Name,
    /// It publishes in another way than on a port of 127.0.0.1 that is given to it.
    Port,
    /// It changes networks or name resolution.
    Network,
    /// It asks for more, or sets other limits than there are.
    Limit,
    /// It runs something beside its services.
    Hook,
    /// It sends output elsewhere.
    Logging,
    /// The image is missing or not named for good.
    Image,
    /// It refers to what is not in the file, or in a circle.
    Reference,
    /// It has another form than it must have.
    Value,
}

impl Rule {
    /// All rules.
    pub const ALL: [Self; 26] = [
        Self::NotYaml,
        Self::TooLarge,
        Self::Anchor,
        Self::Tag,
        Self::Documents,
        Self::DuplicateKey,
        Self::MergeKey,
        Self::Ambiguous,
        Self::Interpolation,
        Self::UnknownKey,
        Self::Extension,
        Self::Privilege,
        Self::HostNamespace,
        Self::HostPath,
        Self::Device,
        Self::OtherFile,
        Self::Build,
        Self::Name,
        Self::Port,
        Self::Network,
        Self::Limit,
        Self::Hook,
        Self::Logging,
        Self::Image,
        Self::Reference,
        Self::Value,
    ];

    /// Its name, as shown with each refusal.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotYaml => "not-yaml",
            Self::TooLarge => "too-large",
            Self::Anchor => "anchor",
            Self::Tag => "tag",
            Self::Documents => "documents",
            Self::DuplicateKey => "duplicate-key",
            Self::MergeKey => "merge-key",
            Self::Ambiguous => "ambiguous",
            Self::Interpolation => "interpolation",
            Self::UnknownKey => "unknown-key",
            Self::Extension => "extension",
            Self::Privilege => "privilege",
            Self::HostNamespace => "host-namespace",
            Self::HostPath => "host-path",
            Self::Device => "device",
            Self::OtherFile => "other-file",
            Self::Build => "build",
            Self::Name => "name",
            Self::Port => "port",
            Self::Network => "network",
            Self::Limit => "limit",
            Self::Hook => "hook",
            Self::Logging => "logging",
            Self::Image => "image",
            Self::Reference => "reference",
            Self::Value => "value",
        }
    }
}

/// Refusals of one file that are shown; whoever has more has one mistake many times.
const SHOWN: usize = 50;

/// Refusals as a person reads them, see [`Finding::render`]: the first ones, and how many more there are.
pub fn render(findings: &[Finding], file: &str, text: &str) -> String {
    let shown = findings.iter().take(SHOWN);
    let mut said: String = shown.map(|finding| finding.render(file, text)).collect();
    if findings.len() > SHOWN {
        let more = findings.len() - SHOWN;
        let _ = writeln!(said, "… and {more} more: mend these first");
    }
    said
}

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// For what.
    pub rule: Rule,
    /// Where, in bytes of the file.
    pub span: Range<usize>,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Finding {
    /// A refusal.
    pub fn new(rule: Rule, span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            rule,
            span,
            message: message.into(),
        }
    }

    /// As a person reads it: `file:line:column`, the rule, the line and a caret.
    pub fn render(&self, file: &str, text: &str) -> String {
        let message = format!("[{}] {}", self.rule.name(), self.message);
        Diagnostic::error(Some(self.span.clone()), message).render(file, text)
    }

    /// The line it is on, from 1.
    pub fn line(&self, text: &str) -> usize {
        let before = &text.as_bytes()[..self.span.start.min(text.len())];
        before.split(|byte| *byte == b'\n').count()
    }
}
