// What showed an alert, in words: each test has its own.

import { format, make, parameterOf, withUnit } from "./words.js";

const TESTS = {
  "limit": { joint: "limit", of: "" },
  "rate": { joint: "limit", of: " per hour" },
  "fast change": { joint: "was", of: "" },
};

/** One reason to believe an alert, as a list item: the parameter, its value, and what that was held against. */
export function evidenceLine({ parameter, value, expected, score, test }) {
  const { joint, of } = TESTS[test] ?? { joint: "expected", of: "" };
  const quantity = (number) => withUnit(number, parameter) + (number == null ? "" : of);
  const line = make("li", "", parameter ? parameterOf(parameter).label : "value");
  line.append(test === "rate" ? " changes by " : " ", make("strong", "", quantity(value)));
  if (expected != null) line.append(make("span", "quiet", `, ${joint} ${quantity(expected)}`));
  line.title = strength(test, score);
  return line;
}

function strength(test, score) {
  const strong = score == null ? "" : { "rate": `${format(1).format(score)} times its limit`, "fast change": `${format(1).format(score)} times as fast as its limit, against what it was some minutes before` }[test] ?? `score ${format(1).format(score)}`;
  return [test, strong].filter(Boolean).join(": ");
}
