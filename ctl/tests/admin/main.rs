//! The running balancer under its operator's hands: changes, the admin socket, the client commands,
//! and clients that mean harm.

mod audit;
mod capture;
mod churn;
mod clients;
mod commands;
mod control;
mod decap;
mod down_reals;
mod explain;
mod flows;
mod global_table;
mod health_checks;
mod hostile;
mod local_reals;
mod random;
mod rig;
mod scale;
mod server;
mod server_ids;
mod settings;
mod source_routes;
