// A function of any type, looked at. It must outlive the FunctionRef, as a lambda does that is an argument of the call which
// takes the FunctionRef. Unlike std::function it takes no memory, whatever the lambda captures.
#pragma once

#include <type_traits>

namespace sidetune::cpu {

template <class Signature>
class FunctionRef;

template <class Result, class... Arguments>
class FunctionRef<Result(Arguments...)> {
 public:
  FunctionRef() = default;
  template <class Function, class = std::enable_if_t<!std::is_same<Function, FunctionRef>::value>>
  FunctionRef(const Function& function)
      : function_(&function), call_([](const void* function, Arguments... arguments) -> Result {
          return (*static_cast<const Function*>(function))(arguments...);
        }) {}

  explicit operator bool() const { return call_; }
  Result operator()(Arguments... arguments) const { return call_(function_, arguments...); }

 private:
  const void* function_ = nullptr;
  Result (*call_)(const void* function, Arguments... arguments) = nullptr;
};

}  // namespace sidetune::cpu
