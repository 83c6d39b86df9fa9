//! Who reads the credentials of a service. No container may read what is another user's: they have no
//! capabilities, so that even their root is a user like any other.

use std::{collections::HashMap, time::Instant};

use super::{
    super::{
        driver::Fault,
        spec::Plan,
        stack::{Rendered, label},
    },
    DockerDriver, EngineError, away,
    users::Said,
};
use crate::sandbox_state::Reason;

impl DockerDriver {
    /// Decides whose the credentials are that nobody is named for: the user's that the image names.
    pub(super) async fn give_to_readers(
        &self,
        plan: &Plan,
        rendered: &mut Rendered,
        until: Instant,
    ) -> Result<(), Fault> {
        let mut known = HashMap::new();
        for file in &mut rendered.secrets {
            if file.owner.is_some() {
                continue;
            }
            let service = plan.services.iter().find(|one| one.name == file.service);
            let Some(image) = service.and_then(|service| service.image.as_deref()) else {
                continue;
            };
            if let Some(owner) = known.get(image) {
                file.owner = Some(*owner);
                continue;
            }
            let user = self.engine.user_of_image(image).await;
            let user = user.map_err(|error| away(&error))?;
            let said = Said::of(&user);
            let tables = self.tables(&plan.id, image, said, until).await;
            let (users, groups) = tables.map_err(|error| away(&error))?;
            let owner = said.owner(&users, &groups).map_err(|why| Fault {
                reason: Reason::LaunchFailed,
                detail: format!(
                    "service `{}`: the image `{image}` runs as the user `{user}`, {why}, so no credential can \
                     be given to it: write the number under `user`, as in `user: \"1000:1000\"`, or grant it \
                     no credentials (`credentials: []`)",
                    file.service
                ),
            })?;
            known.insert(image, owner);
            file.owner = Some(owner);
        }
        Ok(())
    }

    /// The image's own users and groups, as far as they are needed. What is made to read them carries the marks
    /// of the sandbox, so that it goes with it also when nobody comes to remove it here.
    async fn tables(
        &self,
        sandbox: &str,
        image: &str,
        said: Said<'_>,
        until: Instant,
    ) -> Result<(String, String), EngineError> {
        if !said.needs_users() && !said.needs_groups() {
            return Ok(Default::default());
        }
        let marks = [
            (label::INSTANCE, self.owner.instance.clone()),
            (label::SANDBOX, sandbox.to_owned()),
            (label::EPOCH, self.owner.epoch.to_string()),
        ];
        let marks = marks.map(|(key, value)| (key.to_owned(), value));
        let made = self.engine.make_to_read(image, marks.into(), until).await?;
        let table = async |needed: bool, path: &str| {
            let file = if needed {
                self.engine.file(&made, path, until).await?
            } else {
                None
            };
            let text = file.unwrap_or_default();
            Ok::<_, EngineError>(String::from_utf8_lossy(&text).into_owned())
        };
        let users = table(said.needs_users(), "/etc/passwd").await;
        let groups = match &users {
            Ok(_) => table(said.needs_groups(), "/etc/group").await,
            Err(_) => Ok(String::new()),
        };
        let removed = self.engine.remove_container(&made).await;
        let tables = (users?, groups?);
        removed.map(|()| tables)
    }
}
