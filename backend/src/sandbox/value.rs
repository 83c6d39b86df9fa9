//! Names and figures as the engine takes them.

/// What keeps a name from being that of one image for good, with a tag that is not `latest`, or a digest,
/// and of one that is nobody else's; nothing where it is good.
pub(super) fn image_fault(name: &str) -> Option<&'static str> {
    let plain = name.len() <= 255
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| {
            b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b':' | b'@')
        });
    let last = name.rsplit('/').next().unwrap_or_default();
    let (repository, tag) = last.split_once(':').unwrap_or((last, ""));
    let repository = repository.split('@').next().unwrap_or_default();
    if !plain || matches!(tag, "" | "latest") {
        return Some(
            "must name an image with a tag other than `latest`, or a digest, e.g. `postgres:16.4`",
        );
    }
    // To the engine that is no repository: it looks for any image of this id.
    if ["sha256", "sha384", "sha512"].contains(&name.split(':').next().unwrap_or_default()) {
        return Some("must not be an id: name a repository, e.g. `postgres:16.4`");
    }
    is_built(repository)
        .then_some("must not be one that is built for a sandbox: those go with their sandbox")
}

/// Whether a repository is called as what is built here, see [`super::stack::name_builds`]:
/// `orket-`, a ULID and a number.
fn is_built(repository: &str) -> bool {
    let lower = repository.to_ascii_lowercase();
    let parts = lower
        .strip_prefix("orket-")
        .and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(id, _)| id.len() == 26 && id.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// The most that the engine takes for a user or a group.
pub(super) const MAX_ID: u32 = 2_147_483_647;

/// A user in figures: `uid` or `uid:gid`.
pub(super) fn is_user(text: &str) -> bool {
    let number = |text: &str| {
        let number = text.parse::<u32>().ok();
        number.is_some_and(|id| id <= MAX_ID && id.to_string() == text)
    };
    match text.split_once(':') {
        Some((uid, gid)) => number(uid) && number(gid),
        None => number(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_for_good_and_is_nobody_elses() {
        let built = "orket-01arz3ndektsv4rrffq69g5fav-0";
        for good in [
            "postgres:16.4",
            "a@sha256:0123abcd",
            "registry.example:5000/a/b:1.2",
            "orket-test-service:1",
            "acme/orket-shop:1",
            "orket-short-0:built",
            "orket-01arz3ndektsv4rrffq69g5fav:1",
            "sha256/a:1",
        ] {
            assert_eq!(image_fault(good), None, "{good}");
        }
        for bad in ["", "a", "a:latest", "a:", "-a:1", "$A:1"] {
            assert!(image_fault(bad).is_some(), "{bad}");
        }
        for place in [
            "",
            "library/",
            "docker.io/",
            "docker.io/library/",
            "index.docker.io/",
        ] {
            for tag in ["built", "other", "1@sha256:0123abcd"] {
                let name = format!("{place}{built}:{tag}");
                assert!(image_fault(&name).is_some(), "{name}");
            }
        }
        for name in [
            format!("{built}@sha256:0123abcd"),
            built.to_uppercase() + ":built",
        ] {
            assert!(image_fault(&name).is_some(), "{name}");
        }
        for id in ["sha256:0123abcd", "sha512:0", "sha256:0@sha256:0"] {
            assert!(image_fault(id).is_some(), "{id}");
        }
    }

    #[test]
    fn a_user_is_as_large_as_the_engine_takes_it() {
        for good in ["0", "70:71", "2147483647:2147483647"] {
            assert!(is_user(good), "{good}");
        }
        for bad in [
            "2147483648",
            "0:2147483648",
            "4294967295",
            "4294967296",
            "01",
            "",
            "a",
            "1:2:3",
        ] {
            assert!(!is_user(bad), "{bad}");
        }
    }
}
