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
