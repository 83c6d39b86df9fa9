//! Every row of the refusal table: status, `detail`, and the one shape all refusals have.

mod addresses;
mod advisories;
mod bodies;
mod budgets;
mod duplicates;
mod head_limits;
mod heads;
mod keys;
mod ours;
mod routes;
mod slow;
mod targets;
mod test_webhook;
mod upstream;
mod webhook;
