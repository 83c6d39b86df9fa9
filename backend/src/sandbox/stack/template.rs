//! The stacks that are built in: compose files of `deploy/stacks/`, read as those of repositories are.
//! The application's own images are given when one is used.

use std::collections::BTreeMap;

use super::{
    compose::{self, Stack},
    rule,
};
use crate::{
    sandbox::{ports::Role, value::image_fault},
    work::Invalid,
};

/// A stack that is built in.
#[derive(Debug, Clone, Copy)]
pub struct Template {
    /// Its name.
    pub name: &'static str,
    /// Its compose file.
    pub text: &'static str,
}

/// All of them.
pub const TEMPLATES: [Template; 5] = [
    Template {
        name: "fastapi-react-postgres",
        text: include_str!("../../../../deploy/stacks/fastapi-react-postgres.yaml"),
    },
    Template {
        name: "fastapi-vue-mongo",
        text: include_str!("../../../../deploy/stacks/fastapi-vue-mongo.yaml"),
    },
    Template {
        name: "csharp-razor-ef",
        text: include_str!("../../../../deploy/stacks/csharp-razor-ef.yaml"),
    },
    Template {
        name: "node-react-postgres",
        text: include_str!("../../../../deploy/stacks/node-react-postgres.yaml"),
    },
    Template {
        name: "django-react-postgres",
        text: include_str!("../../../../deploy/stacks/django-react-postgres.yaml"),
    },
];

/// The stack of a template, with these images in place of its own.
pub fn stack(name: &str, images: &BTreeMap<String, String>) -> Result<Stack, Invalid> {
    let template = TEMPLATES.iter().find(|template| template.name == name);
    let template = template.ok_or_else(|| {
        let names = TEMPLATES.map(|template| template.name);
        Invalid(format!(
            "there is no stack `{name}`: it may be {}",
            names.join(", ")
        ))
    })?;
    let read = compose::read_template(template.text);
    let mut stack =
        read.map_err(|findings| Invalid(rule::render(&findings, name, template.text)))?;
    for service in &mut stack.services {
        if service.name == "admin" {
            service.role = service.role.map(|_| Role::Admin);
        }
    }
    replace(&mut stack, images)?;
    Ok(stack)
}

/// Puts images in place of those of a stack; every service has one then.
pub(super) fn replace(stack: &mut Stack, images: &BTreeMap<String, String>) -> Result<(), Invalid> {
    let names: Vec<_> = stack.services.iter().map(|s| s.name.clone()).collect();
    for (name, image) in images {
        let service = stack.services.iter_mut().find(|s| s.name == *name);
        let service = service.ok_or_else(|| {
            let names = names.join(", ");
            Invalid(format!(
                "`images` names `{name}`, and the services are {names}"
            ))
        })?;
        if let Some(fault) = image_fault(image) {
            return Err(Invalid(format!("`images.{name}` {fault}")));
        }
        service.image = Some(image.clone());
        service.container.build = None;
    }
    let missing = stack.services.iter().filter(|s| !s.is_contained());
    let missing: Vec<_> = missing.map(|s| format!("`{}`", s.name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Invalid(format!(
        "`images` must name the application's own images: {} is missing",
        missing.join(", ")
    )))
}
