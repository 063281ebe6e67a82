/*
 * ringfold: collective communication for tasks that must agree.
 *
 * Generated from ffi/c; do not edit. ffi/README.md says how to bind it: who owns what, which thread may call what, what errors
 * mean, and what will never change.
 *
 * In short: a call returns RF_OK or another rf_status, and fills in an rf_error where one is passed. Handles are made by a
 * function that writes them to *out, and released by the one that ends in _release. Counts are elements, sizes are bytes,
 * times are nanoseconds. Every call has a deadline; none exits or aborts the process.
 */
