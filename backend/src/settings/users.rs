//! Names of users into their numbers, from `/etc/passwd`.

use std::fs;

/// A user's number.
pub type Uid = u32;

/// The number of a user given by name or number.
pub fn resolve(user: &str) -> Result<Uid, String> {
    if let Ok(uid) = user.parse() {
        return Ok(uid);
    }
    let passwd = fs::read_to_string("/etc/passwd")
        .map_err(|error| format!("/etc/passwd cannot be read ({error})"))?;
    find(&passwd, user).ok_or_else(|| format!("there is no user `{user}` in /etc/passwd"))
}

/// The number of a group given by name or number.
pub fn resolve_group(group: &str) -> Result<u32, String> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    let groups = fs::read_to_string("/etc/group")
        .map_err(|error| format!("/etc/group cannot be read ({error})"))?;
    find(&groups, group).ok_or_else(|| format!("there is no group `{group}` in /etc/group"))
}

/// The group that a user has in `/etc/passwd`.
pub fn group_of(uid: Uid) -> Option<u32> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        (fields.next()?.parse() == Ok(uid))
            .then(|| fields.next()?.parse().ok())
            .flatten()
    })
}

fn find(passwd: &str, user: &str) -> Option<Uid> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(user))
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_matched_whole() {
        let passwd = "root:x:0:0:r:/root:/bin/sh\nrooted:x:7:7::/:/bin/sh\nbroken:x\n";
        assert_eq!(find(passwd, "root"), Some(0));
        assert_eq!(find(passwd, "rooted"), Some(7));
        assert_eq!(find(passwd, "broken"), None);
        assert_eq!(find(passwd, ""), None);
        assert_eq!(resolve("123"), Ok(123));
    }
}
