//! Paging: a list is given in pages, newest first, and each page names the next by a cursor.

use serde::{Deserialize, Serialize};

use super::problem::ApiError;
use crate::store::Listing;

const DEFAULT: i64 = 50;
const MOST: i64 = 500;

/// What begins a cursor: a number of ours is not taken for one of someone else's.
const MARK: &str = "c";

/// A page of a list.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Page<T> {
    /// What is on it.
    pub(super) items: Vec<T>,
    /// The cursor of the next page; `null` on the last.
    pub(super) next: Option<String>,
}

impl<T> Page<T> {
    /// A page of this part of a list.
    pub(super) fn of<R>(
        listing: Listing<R>,
        number: impl Fn(&R) -> i64,
        view: impl Fn(R) -> T,
    ) -> Self {
        let last = listing.rows.last().filter(|_| listing.more);
        let next = last.map(|row| mark(number(row)));
        Self {
            items: listing.rows.into_iter().map(view).collect(),
            next,
        }
    }
}

/// The cursor that stands for a number.
pub(super) fn mark(number: i64) -> String {
    format!("{MARK}{number:x}")
}

/// The cursor that stands for where to go on and where to end.
pub(super) fn mark_of_two(after: i64, up_to: i64) -> String {
    format!("{}-{}", mark(after), mark(up_to))
}

/// The number a cursor stands for.
pub(super) fn cursor(text: Option<&str>) -> Result<Option<i64>, ApiError> {
    let nonsense = || {
        ApiError::invalid(
            "`cursor` is not one of ours: take `next` of the page before, or leave it out",
        )
    };
    let Some(text) = text else { return Ok(None) };
    let digits = text.strip_prefix(MARK).ok_or_else(nonsense)?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(nonsense());
    }
    i64::from_str_radix(digits, 16)
        .map(Some)
        .map_err(|_| nonsense())
}

/// The numbers that a [`mark_of_two`] stands for.
pub(super) fn cursor_of_two(text: Option<&str>) -> Result<Option<(i64, i64)>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    // What has no second one is refused for that.
    let (one, two) = text.split_once('-').unwrap_or((text, ""));
    Ok(cursor(Some(one))?.zip(cursor(Some(two))?))
}

/// How many to give: between 1 and 500, 50 by default.
pub(super) fn limit(asked: Option<i64>) -> Result<i64, ApiError> {
    match asked {
        None => Ok(DEFAULT),
        Some(limit @ 1..=MOST) => Ok(limit),
        Some(_) => Err(ApiError::invalid(format!(
            "`limit` must be between 1 and {MOST}"
        ))),
    }
}

/// The query of a plain list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// `next` of the page before.
    pub(super) cursor: Option<String>,
    /// How many items at most, 1 to 500. Of large ones a page has fewer.
    pub(super) limit: Option<i64>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    #[test]
    fn pages_follow_each_other_and_nonsense_is_refused() {
        let of = |rows, more| Page::of(Listing { rows, more }, |n| *n, |n| n);
        let page = of(vec![9, 8], true);
        assert_eq!(page.items, [9, 8]);
        assert_eq!(cursor(page.next.as_deref()).unwrap(), Some(8));
        assert_eq!(of(vec![1, 0], false).next, None);
        for bad in [
            "",
            "c",
            "8",
            "c-1",
            "cxyz",
            "c+1",
            "cffffffffffffffffff",
            "c 1",
        ] {
            assert!(cursor(Some(bad)).is_err(), "{bad}");
        }
        assert!(limit(Some(0)).is_err());
        assert!(limit(Some(501)).is_err());
    }
}
