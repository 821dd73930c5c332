// The one program: fathom serve | generate | chat | bench | tokenize | doctor.
#include <cstdio>

int main() {
  std::puts("fathom 0.1.0");
  return 0;
}
