//! What of a service's `build` is taken: a folder of the repository, and nothing beside it.

use std::path::Path;

use super::{
    reader::Reader,
    repository::is_inside,
    rule::Rule,
    service, value,
    yaml::{Node, Value},
};
use crate::sandbox::{container::Build, spec::is_label};

const AT: &str = "services.*.build";

pub(super) fn build(reader: &mut Reader, node: &Node, has_image: bool) -> Option<Build> {
    if has_image {
        let message =
            "`image` beside `build`: what is built is named by Orket, so keep one of them";
        reader.refuse(Rule::Build, &node.span, message);
    }
    let (context, dockerfile, args, target) = match &node.value {
        Value::Map(_) => {
            let fields = reader.fields(node, AT);
            let dockerfile = fields.get("dockerfile").map(|file| {
                let read = inside(file);
                reader.take(Rule::Build, file, read)
            });
            let args = fields
                .get("args")
                .map(|args| service::variables(reader, args));
            let target = reader.read(fields.get("target"), |node| {
                let name = value::text(node)?;
                is_label(&name).then_some(name).ok_or_else(|| {
                    "a stage's name is lower-case letters, digits, `-` and `_`".to_owned()
                })
            });
            let context = fields.get("context").or_else(|| {
                reader.refuse(Rule::Build, &node.span, "`context` is missing");
                None
            })?;
            (context, dockerfile, args.unwrap_or_default(), target)
        }
        Value::List(_)
        | Value::Text(_)
        | Value::Int(_)
        | Value::Fraction(_)
        | Value::Bool(_)
        | Value::Null => (node, None, std::collections::BTreeMap::new(), None),
    };
    let read = inside(context);
    let context = reader.take(Rule::Build, context, read)?;
    let dockerfile = match dockerfile {
        None => "Dockerfile".to_owned(),
        Some(named) => named.filter(|name| !name.is_empty())?,
    };
    Some(Build {
        repository: String::new(),
        context,
        dockerfile,
        args,
        target,
    })
}

/// A path of the repository, without `./`; empty for the repository itself.
fn inside(node: &Node) -> Result<String, String> {
    let text = value::text(node)?;
    let path = text
        .strip_prefix("./")
        .unwrap_or(&text)
        .trim_end_matches('/');
    let path = if path == "." { "" } else { path };
    let plain = path.len() <= 200
        && path
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'));
    if text.is_empty()
        || !plain
        || path.starts_with('/')
        || path.contains("//")
        || !is_inside(Path::new(path))
    {
        return Err("a relative path of plain names in the repository is expected: nothing is fetched from elsewhere".to_owned());
    }
    Ok(path.to_owned())
}
