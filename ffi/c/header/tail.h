/* A structure that is ready to be filled in: rf_options options = RF_OPTIONS_INIT; Where there is no compiler for C, a function does
 * the same: rf_options_init(options, size of the structure as the binding knows it). */
#if defined(__cplusplus)
#define RF_STRUCT_(name, ...) (name{__VA_ARGS__})
#else
#define RF_STRUCT_(name, ...) {__VA_ARGS__}
#endif
#define RF_ERROR_INIT RF_STRUCT_(rf_error, (uint32_t)sizeof(rf_error), RF_OK, RF_KIND_NONE, 0, -1, -1, -1, -1, {0}, {0}, {0})
#define RF_CONFIG_INIT \
    RF_STRUCT_(rf_config, (uint32_t)sizeof(rf_config), 0, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
#define RF_OPTIONS_INIT RF_STRUCT_(rf_options, (uint32_t)sizeof(rf_options), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
#define RF_EXCHANGE_INIT RF_STRUCT_(rf_exchange, (uint32_t)sizeof(rf_exchange), 0, -1, -1, 0, 0, 0)
#define RF_REDUCTION_INIT \
    RF_STRUCT_(rf_reduction_config, (uint32_t)sizeof(rf_reduction_config), 0, 0, {0, 0, 0}, 0, 0, 0, 0, 0)
#define RF_KEY_INIT RF_STRUCT_(rf_key_info, (uint32_t)sizeof(rf_key_info), 0, 0, 0, 0, 0)
#define RF_COUNTERS_INIT RF_STRUCT_(rf_counters, (uint32_t)sizeof(rf_counters), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)

/* The element types. */
#if defined(__cplusplus)
#define RF_DTYPE_(code, bits) (rf_dtype{code, bits, 1})
#else
#define RF_DTYPE_(code, bits) ((rf_dtype){code, bits, 1})
#endif
#define RF_I8 RF_DTYPE_(0, 8)
#define RF_I16 RF_DTYPE_(0, 16)
#define RF_I32 RF_DTYPE_(0, 32)
#define RF_I64 RF_DTYPE_(0, 64)
#define RF_U8 RF_DTYPE_(1, 8)
#define RF_U16 RF_DTYPE_(1, 16)
#define RF_U32 RF_DTYPE_(1, 32)
#define RF_U64 RF_DTYPE_(1, 64)
#define RF_F16 RF_DTYPE_(2, 16)
#define RF_F32 RF_DTYPE_(2, 32)
#define RF_F64 RF_DTYPE_(2, 64)
#define RF_BF16 RF_DTYPE_(4, 16)
