// Includes that tests/floors.sh must catch. Never compiled.
#include "configs/model_config.h"
#include "ops/b/b.h"
