"""What is used of oneDNN's C interface: declarations by hand, and the numbers behind its names.

From dnnl.h, dnnl_types.h, dnnl_common_types.h and dnnl_config.h of 3.2.
"""

DECLARATIONS = """
typedef int status;
typedef void *engine, *stream, *primitive, *pd, *memory, *attr, *post_ops, *md;
typedef const int64_t *dims;
typedef struct { int major, minor, patch; const char *hash; unsigned cpu_runtime, gpu_runtime; } version;
typedef struct { int arg; memory memory; } exec_arg;

const version *dnnl_version(void);
int dnnl_get_effective_cpu_isa(void);
status dnnl_engine_create(engine *, int kind, size_t index);
status dnnl_stream_create(stream *, engine, unsigned flags);
status dnnl_memory_desc_create_with_strides(md *, int ndims, dims, int type, dims strides);
status dnnl_memory_desc_create_with_tag(md *, int ndims, dims, int type, int tag);
status dnnl_memory_desc_destroy(md);
int dnnl_memory_desc_equal(md, md);
size_t dnnl_memory_desc_get_size(md);
status dnnl_memory_create(memory *, md, engine, void *);
status dnnl_memory_set_data_handle(memory, const void *);
status dnnl_memory_destroy(memory);
status dnnl_post_ops_create(post_ops *);
status dnnl_post_ops_append_eltwise(post_ops, int algorithm, float alpha, float beta);
status dnnl_post_ops_destroy(post_ops);
status dnnl_primitive_attr_create(attr *);
status dnnl_primitive_attr_set_post_ops(attr, post_ops);
status dnnl_primitive_attr_set_scratchpad_mode(attr, int mode);
status dnnl_primitive_attr_set_fpmath_mode(attr, int mode);
status dnnl_primitive_attr_destroy(attr);
status dnnl_primitive_desc_query(pd, int what, int index, void *result);
md dnnl_primitive_desc_query_md(pd, int what, int index);
status dnnl_primitive_desc_destroy(pd);
status dnnl_primitive_create(primitive *, pd);
status dnnl_primitive_execute(primitive, stream, int, const exec_arg *);
status dnnl_primitive_destroy(primitive);
status dnnl_reorder_primitive_desc_create(pd *, md source, engine, md target, engine, attr);
status dnnl_matmul_primitive_desc_create(pd *, engine, md source, md weights, md bias, md target, attr);
status dnnl_convolution_forward_primitive_desc_create(pd *, engine, int, int, md, md, md, md, dims, dims, dims, dims, attr);
status dnnl_convolution_backward_data_primitive_desc_create(
    pd *, engine, int, md, md, md, dims, dims, dims, dims, pd, attr);
status dnnl_convolution_backward_weights_primitive_desc_create(
    pd *, engine, int, md, md, md, md, dims, dims, dims, dims, pd, attr);
status dnnl_pooling_forward_primitive_desc_create(pd *, engine, int, int, md, md, dims, dims, dims, dims, dims, attr);
status dnnl_pooling_backward_primitive_desc_create(pd *, engine, int, md, md, dims, dims, dims, dims, dims, pd, attr);
status dnnl_batch_normalization_forward_primitive_desc_create(pd *, engine, int, md, md, float, unsigned, attr);
status dnnl_batch_normalization_backward_primitive_desc_create(
    pd *, engine, int, md, md, md, float, unsigned, pd, attr);
status dnnl_layer_normalization_forward_primitive_desc_create(pd *, engine, int, md, md, md, float, unsigned, attr);
status dnnl_layer_normalization_backward_primitive_desc_create(
    pd *, engine, int, md, md, md, md, float, unsigned, pd, attr);
status dnnl_sgemm(
    char, char, int64_t rows, int64_t columns, int64_t inner, float alpha, const void *, int64_t, const void *, int64_t, float beta,
    void *, int64_t);
int omp_get_max_threads(void);
void omp_set_num_threads(int);
"""

CPU, IN_ORDER, OPENMP, FORMAT_ANY, SCRATCHPAD_USER, STRICT = 1, 1, 2, 1, 1, 0
FLOAT, UINT8, INT32 = 3, 6, 4
PANELS = 504
"""Layout of a matrix: panels of 32 columns, one behind the other, each row by row (dnnl_BA16a32b)."""
FORWARD, INFERENCE, BACKWARD, BACKWARD_DATA = 64, 96, 128, 160
CONVOLUTION, POOLING_MAX, POOLING_MEAN, POOLING_MEAN_INSIDE = 1, 511, 767, 1023
RELU, TANH, GELU, GELU_TANH, SIGMOID, SILU = 32, 33, 49, 43, 41, 44
GIVEN_STATISTICS, USE_SCALE, USE_SHIFT, FUSE_RELU = 1, 2, 4, 8
SRC, DST, WEIGHTS, BIAS, MEAN, VARIANCE, SCALE, SHIFT, WORKSPACE, SCRATCHPAD = 1, 17, 33, 41, 49, 50, 51, 52, 64, 80
DIFF_SRC, DIFF_DST, DIFF_WEIGHTS, DIFF_BIAS, DIFF_SCALE, DIFF_SHIFT = 129, 145, 161, 169, 255, 256
QUERY_IMPLEMENTATION, QUERY_SCRATCHPAD = 8, 136
QUERY = {
    SRC: 129, DIFF_SRC: 130, WEIGHTS: 131, DIFF_WEIGHTS: 132, DST: 133, DIFF_DST: 134, WORKSPACE: 135,
}  # fmt: skip
"""Argument of a primitive -> how to ask for its layout."""
