//! The one integration binary, so that linking stays cheap.
