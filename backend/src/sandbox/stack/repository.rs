//! The stack of a checked-out repository: what its `.orket.toml` chooses, or its own compose file. No
//! file is reached through a symbolic link.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read as _},
    ops::Range,
    os::fd::OwnedFd,
    path::{Component, Path},
};

use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::Deserialize;
use toml::Spanned;

use super::{
    compose::{self, Stack},
    rule, template,
};
use crate::{
    config::diagnostic::{Diagnostic, harmless},
    sandbox::{
        ports::Role,
        registry::Registries,
        spec::{Health, Spec},
    },
};

/// The file in which a repository says which stack it has.
pub const MANIFEST: &str = ".orket.toml";
/// Where a compose file is looked for that nothing names.
pub const COMPOSE_FILES: [&str; 4] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yaml",
    "docker-compose.yml",
];
/// Bytes that any file may have that is read.
const MAX_BYTES: u64 = 64 << 10;

/// Why a repository has no stack that could be run: findings as people read them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// The stack of a repository, and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// A file of the repository, or the name of a template.
    pub source: String,
    /// What would be run.
    pub stack: Stack,
}

/// `.orket.toml`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Manifest {
    stack: Choice,
    services: BTreeMap<Spanned<String>, Changes>,
}

/// `[stack]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Choice {
    /// A stack that is built in.
    template: Option<Spanned<String>>,
    /// A compose file of the repository.
    compose: Option<Spanned<String>>,
    /// The services that are run, with those they depend on; all when absent.
    services: Option<Vec<Spanned<String>>>,
    /// Images in place of those of the stack, by service.
    images: Option<Spanned<BTreeMap<String, String>>>,
}

/// `[services.NAME]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Changes {
    /// What it is to its users.
    role: Option<Spanned<Role>>,
    /// The path that answers when it is well.
    health: Option<Spanned<String>>,
}

/// Reads the stack of the repository at `root`: an absolute path free of symbolic links.
/// Images come from these registries.
pub fn load(root: &Path, registries: &Registries) -> Result<Found, Refused> {
    let root = &open_real(root).map_err(|error| {
        Refused(format!(
            "error: the repository cannot be read ({error}): it must be a folder, and nothing on its path a symbolic link\n"
        ))
    })?;
    let Some(text) = read(root, MANIFEST)? else {
        let (source, stack) = compose_file(root, None, registries)?;
        return complete(Found { source, stack }, registries);
    };
    let at = |span: Range<usize>, message: String| {
        Refused(Diagnostic::error(Some(span), message).render(MANIFEST, &text))
    };
    let manifest: Manifest = toml::from_str(&text).map_err(|error| {
        Refused(Diagnostic::error(error.span(), error.message()).render(MANIFEST, &text))
    })?;
    let images = manifest.stack.images.as_ref();
    for (name, image) in images.iter().flat_map(|images| images.get_ref()) {
        if let (Some(fault), Some(images)) = (registries.image_fault(image), images) {
            return Err(at(images.span(), format!("`images.{name}` {fault}")));
        }
    }
    let none = BTreeMap::new();
    let (source, mut stack) = match (&manifest.stack.template, &manifest.stack.compose) {
        (Some(_), Some(compose)) => {
            let message = "`template` and `compose` cannot both be given: keep one";
            return Err(at(compose.span(), message.into()));
        }
        (Some(name), None) => {
            let images = images.map_or(&none, Spanned::get_ref);
            let stack = template::stack(name.get_ref(), images);
            let stack = stack.map_err(|error| at(name.span(), error.0))?;
            (name.get_ref().clone(), stack)
        }
        (None, file) => {
            if let Some(file) = file
                && file.get_ref().contains(|c| harmless(c) != c)
            {
                let message = "a path without characters that nobody sees is expected";
                return Err(at(file.span(), message.into()));
            }
            let file = file.as_ref().map(Spanned::get_ref);
            let (source, mut stack) = compose_file(root, file.map(String::as_str), registries)?;
            if let Some(images) = images {
                template::replace(&mut stack, images.get_ref())
                    .map_err(|error| at(images.span(), error.0))?;
            }
            (source, stack)
        }
    };
    let unknown = |name: &Spanned<String>| {
        let message = format!("there is no service `{}` in {source}", name.get_ref());
        at(name.span(), message)
    };
    for (name, changes) in &manifest.services {
        let service = stack
            .services
            .iter_mut()
            .find(|s| s.name == *name.get_ref());
        let service = service.ok_or_else(|| unknown(name))?;
        let span = changes.role.as_ref().map(Spanned::span);
        let span = span.or_else(|| changes.health.as_ref().map(Spanned::span));
        if let Some(span) = span
            && service.container_port.is_none()
        {
            let message = format!(
                "`{}` has no port: give it `ports` in {source}",
                service.name
            );
            return Err(at(span, message));
        }
        if let Some(role) = &changes.role {
            service.role = Some(*role.get_ref());
        }
        if let Some(path) = &changes.health {
            service.health = Health::Path(path.get_ref().clone());
        }
    }
    if let Some(names) = &manifest.stack.services {
        if let Some(name) = names
            .iter()
            .find(|name| stack.services.iter().all(|s| s.name != *name.get_ref()))
        {
            return Err(unknown(name));
        }
        choose(&mut stack, names.iter().map(|name| name.get_ref().clone()));
    }
    complete(Found { source, stack }, registries)
}

/// Keeps these services and those they depend on.
fn choose(stack: &mut Stack, names: impl Iterator<Item = String>) {
    let mut kept: BTreeSet<String> = names.collect();
    // Every service stands behind those it depends on.
    for service in stack.services.iter().rev() {
        if kept.contains(&service.name) {
            kept.extend(service.container.after.keys().cloned());
        }
    }
    stack
        .services
        .retain(|service| kept.contains(&service.name));
    let used = |name: &String| {
        let mut granted = stack.services.iter().map(|s| s.container.secrets.as_ref());
        granted.any(|names| names.is_none_or(|names| names.contains(name)))
    };
    stack.secrets.retain(used);
}

/// Refuses what no sandbox may be.
fn complete(found: Found, registries: &Registries) -> Result<Found, Refused> {
    let spec = Spec {
        name: None,
        build_id: None,
        services: found.stack.services.clone(),
        secrets: found.stack.secrets.clone(),
        ttl: std::time::Duration::from_secs(1),
    };
    match spec.check().and_then(|()| registries.check(&spec)) {
        Ok(()) => Ok(found),
        Err(error) => Err(Refused(format!("{}: error: {error}\n", found.source))),
    }
}

fn compose_file(
    root: &OwnedFd,
    named: Option<&str>,
    registries: &Registries,
) -> Result<(String, Stack), Refused> {
    let (name, text) = match named {
        Some(name) => {
            let text = read(root, name)?;
            let missing = || Refused(format!("{name}: error: there is no such file\n"));
            (name, text.ok_or_else(missing)?)
        }
        None => {
            let mut found = Vec::new();
            for name in COMPOSE_FILES {
                if let Some(text) = read(root, name)? {
                    found.push((name, text));
                }
            }
            let names: Vec<_> = found.iter().map(|(name, _)| *name).collect();
            if names.len() > 1 {
                return Err(Refused(format!(
                    "error: there are {}: name one in {MANIFEST}, [stack] compose\n",
                    names.join(" and ")
                )));
            }
            found.pop().ok_or_else(|| {
                Refused(format!(
                    "error: there is no {MANIFEST} and no {}: add one\n",
                    COMPOSE_FILES.join(", ")
                ))
            })?
        }
    };
    let stack = compose::read_from(&text, registries)
        .map_err(|findings| Refused(rule::render(&findings, name, &text)))?;
    Ok((name.to_owned(), stack))
}

/// The text of a file of the repository; nothing when it is not there. No part of its path below
/// `root` is followed where it is a symbolic link.
fn read(root: &OwnedFd, name: &str) -> Result<Option<String>, Refused> {
    let refused = |text: &str| Refused(format!("{name}: error: {text}\n"));
    let path = Path::new(name);
    if !is_inside(path) || name.is_empty() {
        return Err(refused("a path inside of the repository is expected"));
    }
    match read_in(root, path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(refused(&format!(
            "cannot be read ({error}): it must be a plain file of text, and nothing on its path a symbolic link"
        ))),
    }
}

/// How folders are opened that are read.
pub(in crate::sandbox) const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);
/// How those on the way are: without being readable.
const WAY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Whether a path is made of plain names only.
pub(in crate::sandbox) fn is_inside(path: &Path) -> bool {
    path.components()
        .all(|part| matches!(part, Component::Normal(_)))
}

/// Opens a folder by the path that it was found at, free of symbolic links. Whoever may write on the way
/// may have put one there since: nothing is followed.
pub(in crate::sandbox) fn open_real(path: &Path) -> io::Result<OwnedFd> {
    let Ok(path) = path.strip_prefix("/") else {
        return Err(io::Error::other("its path is not absolute"));
    };
    let root = openat(CWD, "/", WAY, Mode::empty())?;
    open_in(&root, path, FOLDER)
}

/// Opens what lies in a folder. Nothing on the way is followed where it is a symbolic link, nothing leads
/// up, and a pipe is not waited for.
pub(in crate::sandbox) fn open_in(
    folder: &OwnedFd,
    path: &Path,
    last: OFlags,
) -> io::Result<OwnedFd> {
    if !is_inside(path) {
        return Err(io::Error::other("its path is not made of plain names"));
    }
    let mut at = None;
    let mut parts = path.components().peekable();
    while let Some(part) = parts.next() {
        let flags = if parts.peek().is_some() { WAY } else { last };
        let next = openat(
            at.as_ref().unwrap_or(folder),
            part.as_os_str(),
            flags | OFlags::NOFOLLOW,
            Mode::empty(),
        )?;
        at = Some(next);
    }
    match at {
        Some(found) => Ok(found),
        // The folder itself.
        None => Ok(openat(folder, ".", last, Mode::empty())?),
    }
}

/// The text of a plain file in a folder: of up to [`MAX_BYTES`].
pub(in crate::sandbox) fn read_in(folder: &OwnedFd, path: &Path) -> io::Result<String> {
    let plain = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(open_in(folder, path, plain)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a plain file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        let text = format!("it is too large: it has more than {MAX_BYTES} bytes");
        return Err(io::Error::other(text));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not text"))
}
