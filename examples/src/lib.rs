//! The examples: thin programs that a user of the crates would write.
