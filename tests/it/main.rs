//! The one integration binary. `chaos_server` is the server that misbehaves on request; the rest are stories.

mod chaos_server;
mod transport;
