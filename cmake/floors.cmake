# The order of the folders: "<folder> : <folders it may include>". Read by CMake (link order) and by
# scripts/check_floors.py (include graph). A folder not named on the right is out of reach.
# `plan.topology` means only plan/topology.h; `engine.public` means only engine/engine.h.
set(FATHOM_FLOORS
  "base    :"
  "core    : base"
  "plan    : base"
  "ops     : base core"
  "cache   : base plan"
  "text    : base plan"
  "comm    : base core ops plan.topology"
  "weights : base core ops plan.topology"
  "layers  : base core ops comm weights plan.topology"
  "models  : base core ops comm weights layers plan.topology"
  "sched   : base plan cache"
  "runtime : base core ops comm weights layers models plan"
  "engine  : base core plan ops cache text comm weights layers models sched runtime"
  "server  : base plan text engine.public"
  "testing : base core plan ops cache text comm weights layers models sched runtime engine server"
  "apps    : base core plan ops cache text comm weights layers models sched runtime engine server testing"
)
