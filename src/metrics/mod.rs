//! Providers: a query in, typed samples or a typed error out.

pub mod exposition;
