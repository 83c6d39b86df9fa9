//! Who reads the credentials of a service. No container may read what is another user's: they have no
//! capabilities, so that even their root is a user like any other.

use super::{
    super::{
        driver::Fault,
        spec::Plan,
        stack::{Rendered, user_in_figures},
    },
    DockerDriver, away,
};
use crate::sandbox_state::Reason;

/// The user of an image that says nothing of it.
const ROOT: (u32, u32) = (0, 0);

impl DockerDriver {
    /// Decides whose the credentials are that nobody is named for: the user's that the image names.
    pub(super) async fn give_to_readers(
        &self,
        plan: &Plan,
        rendered: &mut Rendered,
    ) -> Result<(), Fault> {
        for file in &mut rendered.secrets {
            if file.owner.is_some() {
                continue;
            }
            let service = plan.services.iter().find(|one| one.name == file.service);
            let Some(image) = service.and_then(|service| service.image.as_deref()) else {
                continue;
            };
            let user = self.engine.user_of_image(image).await;
            let user = user.map_err(|error| away(&error))?;
            let owner = owner(&user).ok_or_else(|| Fault {
                reason: Reason::LaunchFailed,
                detail: format!(
                    "service `{}`: the image `{image}` runs as the user `{user}`, and whose number that is \
                     only the image knows, so no credential can be given to it: write the number under \
                     `user`, as in `user: \"1000:1000\"`, or grant it no credentials",
                    file.service
                ),
            })?;
            file.owner = Some(owner);
        }
        Ok(())
    }
}

/// Of what an image says; `None` when only its own table of users could tell.
fn owner(user: &str) -> Option<(u32, u32)> {
    let (name, _) = user.split_once(':').unwrap_or((user, ""));
    match name {
        "" | "root" => Some(ROOT),
        _ => user_in_figures(user),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_understood_and_names_are_not() {
        let said = [
            ("", Some(ROOT)),
            ("root", Some(ROOT)),
            ("root:adm", Some(ROOT)),
            ("0", Some(ROOT)),
            ("1000", Some((1000, 1000))),
            ("1000:50", Some((1000, 50))),
            ("1000:staff", Some((1000, 1000))),
            ("node", None),
            ("node:1000", None),
            ("-1", None),
            // Would be read as "leave it as it is".
            ("4294967295", None),
            ("4294967296", None),
        ];
        for (user, expected) in said {
            assert_eq!(owner(user), expected, "{user}");
        }
    }
}
