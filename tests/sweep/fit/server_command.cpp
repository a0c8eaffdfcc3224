// Takes a command line of llama-server as llama-server does, with its own functions: reads the options, and downloads
// the files that they name. Prints what it would load then.
#include "arg.h"
#include "common.h"

#include <cstdio>

int main(int argc, char ** argv) {
    common_params params;
    if (!common_params_parse(argc, argv, params, LLAMA_EXAMPLE_SERVER)) {
        return 1;
    }
    common_models_handler handler = common_models_handler_init(params, LLAMA_EXAMPLE_SERVER);
    common_models_handler_apply(handler, params, nullptr);
    printf("%s\n%s\n%d\n", params.model.path.c_str(), params.mmproj.path.c_str(), params.n_ctx);
    return 0;
}
