// Includes that tests/floors.sh must catch. Never compiled.
#include "autograd/var.h"
#include "up.h"
