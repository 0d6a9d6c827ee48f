//! The one integration test binary; one module per story. `chaos_server` is the server that misbehaves on request.

mod chaos_server;
mod transport;
