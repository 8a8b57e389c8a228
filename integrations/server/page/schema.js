// Completion from a JSON Schema: the path of the cursor from the indentation, then what may stand there.

/**
 * The keys that lead to what stands `indent` columns in, on the line before which there are `lines`.
 * An item of a list is "-"; `list`: what is looked for is the list whose dashes stand there.
 */
export function pathAt(lines, indent, list = false) {
  const path = [];
  for (let at = lines.length - 1; at >= 0 && (indent > 0 || list); at--) {
    if (!lines[at].trim() || /^\s*#/.test(lines[at])) continue;
    const [, space, dash, name] = /^(\s*)(-\s+)?(?:([\w-]+|"[^"]*")\s*:)?/.exec(lines[at]);
    const column = space.length + (dash?.length ?? 0);
    const key = name?.replaceAll('"', "");
    if (list ? key && column <= indent && !(dash && space.length === indent) : key && column < indent) {
      path.unshift(key);
      [indent, list] = [column, false];
    }
    if (!list && dash && space.length < indent) {
      path.unshift("-");
      [indent, list] = [space.length, true];
    }
  }
  return path;
}

/** All schemas that hold at `path`. */
export function schemasAt(schema, path, root = schema) {
  const open = flat(schema, root);
  if (path.length === 0) return open;
  const [step, ...rest] = path;
  const below = open.flatMap((each) => {
    if (step === "-") return each.items ? [each.items] : [];
    const named = each.properties?.[step];
    if (named && typeof named === "object") return [named];
    return Object.entries(each.patternProperties ?? {})
      .filter(([pattern]) => new RegExp(pattern).test(step))
      .map(([, value]) => value);
  });
  return below.flatMap((each) => schemasAt(each, rest, root));
}

function flat(schema, root) {
  const open = [schema];
  const all = [];
  while (open.length) {
    const each = open.pop();
    if (!each || typeof each !== "object") continue;
    all.push(each);
    if (each.$ref) open.push(each.$ref.slice(2).split("/").reduce((at, key) => at?.[key], root));
    for (const kind of ["allOf", "anyOf", "oneOf"]) open.push(...(each[kind] ?? []));
  }
  return all;
}

/** What may stand at the end of `before`, the begin of a line that comes after `lines`. */
export function suggestions(schema, lines, before) {
  if (/(^|\s)#/.test(before)) return null;
  const [, space, dash, rest] = /^(\s*)(-\s+)?(.*)$/.exec(before);
  const above = dash ? [...pathAt(lines, space.length, true), "-"] : pathAt(lines, space.length);
  const value = /^([\w-]+):\s+([\w-]*)$/.exec(rest);
  if (value) {
    const open = schemasAt(schema, [...above, value[1]]);
    const options = open.flatMap((each) => each.enum ?? []).map((label) => ({ label: String(label), type: "enum" }));
    return { typed: value[2], options };
  }
  if (!/^[\w-]*$/.test(rest)) return null;
  const options = schemasAt(schema, above).flatMap((each) =>
    Object.entries(each.properties ?? {})
      .filter(([, what]) => what)
      .map(([label, what]) => ({ label, type: "property", info: what.description, apply: `${label}: ` })),
  );
  return { typed: rest, options: [...new Map(options.map((option) => [option.label, option])).values()] };
}

export function complete(context, schema) {
  const line = context.state.doc.lineAt(context.pos);
  const lines = context.state.doc.sliceString(0, line.from).split("\n").slice(0, -1);
  const found = suggestions(schema, lines, line.text.slice(0, context.pos - line.from));
  if (!found || !found.options.length || (!found.typed && !context.explicit)) return null;
  return { from: context.pos - found.typed.length, options: found.options, validFor: /^[\w-]*$/ };
}
