//! The user that an image says, as a number: by the image's own `/etc/passwd` and `/etc/group`, as the
//! engine itself takes it.

use super::super::value::MAX_ID;

/// The user of an image that says nothing of it.
const ROOT: u32 = 0;
/// Why somebody is no number.
const NO_USER: &str =
    "and there is no such user in its /etc/passwd (read as a plain file of at most 1 MiB)";
const NO_GROUP: &str =
    "and there is no such group in its /etc/group (read as a plain file of at most 1 MiB)";
const TOO_LARGE: &str = "whose number is larger than the engine takes";

/// What an image says of its user.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said<'u> {
    user: &'u str,
    group: &'u str,
}

impl<'u> Said<'u> {
    pub(super) fn of(user: &'u str) -> Self {
        let mut parts = user.split(':');
        let mut part = || parts.next().unwrap_or_default();
        Self {
            user: part(),
            group: part(),
        }
    }

    /// Whether only the image's table of users can tell. `root` is 0 to everybody.
    pub(super) fn needs_users(self) -> bool {
        !matches!(self.user, "" | "root") && figure(self.user).is_none()
    }

    /// The same of groups.
    pub(super) fn needs_groups(self) -> bool {
        !self.group.is_empty() && figure(self.group).is_none()
    }

    /// User and group by these tables. Where the group is missing, it is that of the user in the table, else
    /// it is called as the user: a credential is open to its user only.
    pub(super) fn owner(self, users: &str, groups: &str) -> Result<(u32, u32), &'static str> {
        let (uid, primary) = match figure(self.user) {
            Some(uid) => (uid, uid),
            None if self.needs_users() => {
                let ids = |fields: &mut Fields<'_>| Some((number(fields)?, number(fields)?));
                listed(users, self.user, ids).ok_or(NO_USER)?
            }
            None => (ROOT.into(), ROOT.into()),
        };
        let gid = match figure(self.group) {
            Some(gid) => gid,
            None if self.needs_groups() => listed(groups, self.group, number).ok_or(NO_GROUP)?,
            None => primary,
        };
        Ok((bounded(uid)?, bounded(gid)?))
    }
}

/// The fields of a line behind its name and its password.
type Fields<'l> = std::str::Split<'l, char>;

/// What the first line of this name says. To the engine it counts also where it is malformed: no other line
/// is taken in its place.
fn listed<T>(table: &str, name: &str, read: impl Fn(&mut Fields<'_>) -> Option<T>) -> Option<T> {
    let mut fields = table.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        (fields.next() == Some(name)).then_some(fields)
    })?;
    fields.next()?;
    read(&mut fields)
}

fn number(fields: &mut Fields<'_>) -> Option<u64> {
    figure(fields.next()?)
}

fn figure(text: &str) -> Option<u64> {
    text.parse().ok()
}

fn bounded(id: u64) -> Result<u32, &'static str> {
    let id = u32::try_from(id).ok().filter(|id| *id <= MAX_ID);
    id.ok_or(TOO_LARGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "# users\nroot:x:5:5::/:/bin/sh\n\nshort:x:1\nshort\n:x:9:9\nodd:x:one:1\nodd:x:2:2\nminus:x:-1:1\nnone:x::\nhalf:x:33:\n\
                           node:x:1000:1001:Node:/srv/node:/bin/sh  \r\nnode:x:7:7\nhuge:x:2147483648:1\n\
                         most:x:2147483647:1\nfar:x:4294967296:1\n1000:x:8:8\nbeyond:x:99999999999999999999:1";
    const GROUPS: &str =
        "node:x:1001:\nodd:x:fifty:\nodd:x:51:\nstaffs:x:1:\n\nstaff:x:50:a,b\nhuge:x:4294967295:";

    #[test]
    fn users_are_found_as_the_engine_finds_them() {
        for (user, expected) in [
            ("", Ok((0, 0))),
            ("root", Ok((0, 0))),
            (":50", Ok((0, 50))),
            ("root:staff", Ok((0, 50))),
            ("0", Ok((0, 0))),
            // A number is one, also where somebody is called so.
            ("1000", Ok((1000, 1000))),
            ("1000:50", Ok((1000, 50))),
            ("1000:staff", Ok((1000, 50))),
            ("node", Ok((1000, 1001))),
            ("node:", Ok((1000, 1001))),
            ("node:staff", Ok((1000, 50))),
            ("node:77:88", Ok((1000, 77))),
            ("most", Ok((2_147_483_647, 1))),
            // The engine would read 0 there, and no later line.
            ("odd", Err(NO_USER)),
            ("minus", Err(NO_USER)),
            ("none", Err(NO_USER)),
            ("half", Err(NO_USER)),
            ("short", Err(NO_USER)),
            ("node:odd", Err(NO_GROUP)),
            ("nobody", Err(NO_USER)),
            ("nod", Err(NO_USER)),
            ("Node", Err(NO_USER)),
            (" node", Err(NO_USER)),
            ("-1", Err(NO_USER)),
            ("beyond", Err(NO_USER)),
            ("node:nobody", Err(NO_GROUP)),
            ("1000:nobody", Err(NO_GROUP)),
            ("huge", Err(TOO_LARGE)),
            ("far", Err(TOO_LARGE)),
            ("node:huge", Err(TOO_LARGE)),
            ("2147483648", Err(TOO_LARGE)),
            // Would be read as "leave it as it is".
            ("4294967295", Err(TOO_LARGE)),
            ("4294967296", Err(TOO_LARGE)),
        ] {
            assert_eq!(Said::of(user).owner(USERS, GROUPS), expected, "{user}");
        }
        assert_eq!(Said::of("node").owner("", ""), Err(NO_USER));
    }

    #[test]
    fn an_image_is_looked_into_only_for_names() {
        for (user, users, groups) in [
            ("", false, false),
            ("root", false, false),
            ("1000:50", false, false),
            ("4294967296", false, false),
            ("node", true, false),
            ("node:50", true, false),
            ("node:staff", true, true),
            ("50:staff", false, true),
        ] {
            let said = Said::of(user);
            assert_eq!(
                (said.needs_users(), said.needs_groups()),
                (users, groups),
                "{user}"
            );
        }
    }
}
