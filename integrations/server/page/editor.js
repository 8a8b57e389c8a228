// The editor of the page: YAML, the loader's own problems at their places, completion from the JSON Schema.
import { autocompletion, closeBrackets, closeBracketsKeymap, completionKeymap } from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap } from "@codemirror/commands";
import { yaml } from "@codemirror/lang-yaml";
import { HighlightStyle, indentOnInput, indentUnit, syntaxHighlighting } from "@codemirror/language";
import { lintGutter, lintKeymap, setDiagnostics } from "@codemirror/lint";
import { Compartment, EditorState } from "@codemirror/state";
import { drawSelection, EditorView, highlightActiveLine, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { complete } from "./schema.js";

const colours = HighlightStyle.define([
  { tag: tags.propertyName, class: "y-key" },
  { tag: [tags.definition(tags.propertyName)], class: "y-key" },
  { tag: tags.comment, class: "y-comment" },
  { tag: [tags.string, tags.content], class: "y-text" },
  { tag: [tags.separator, tags.punctuation, tags.squareBracket, tags.brace], class: "y-mark" },
]);

/** An editor in `parent`. `schema` completes; `nonce` lets its styles in; `changed(text)` is called after
 * each edit. */
export function createEditor({ parent, label, describedBy, schema, nonce, changed }) {
  const access = new Compartment();
  let quiet = false;
  const view = new EditorView({
    parent,
    state: EditorState.create({
      doc: "",
      extensions: [
        EditorView.cspNonce.of(nonce),
        lineNumbers(),
        history(),
        drawSelection(),
        highlightActiveLine(),
        indentOnInput(),
        indentUnit.of("  "),
        closeBrackets(),
        yaml(),
        syntaxHighlighting(colours),
        lintGutter(),
        autocompletion({ override: [(context) => complete(context, schema)] }),
        EditorView.lineWrapping,
        EditorView.contentAttributes.of({
          "aria-label": label,
          "aria-describedby": describedBy,
          spellcheck: "true",
          tabindex: "0",
        }),
        // Tab leaves the editor, as everywhere on a page; Ctrl-] and Ctrl-[ indent.
        keymap.of([...closeBracketsKeymap, ...completionKeymap, ...lintKeymap, ...historyKeymap, ...defaultKeymap]),
        access.of(EditorState.readOnly.of(false)),
        EditorView.updateListener.of((update) => {
          if (update.docChanged && !quiet) changed(view.state.doc.toString());
        }),
      ],
    }),
  });

  /** The offset of a line and a column, both counted from 1. */
  function offset(line, column) {
    const found = view.state.doc.line(Math.min(Math.max(1, line || 1), view.state.doc.lines));
    return Math.min(found.from + Math.max(0, (column || 1) - 1), found.to);
  }

  return {
    view,
    text: () => view.state.doc.toString(),
    /** Put in another text; `changed` is not called. */
    load(text, { readOnly = false } = {}) {
      quiet = true;
      view.dispatch({
        changes: { from: 0, to: view.state.doc.length, insert: text },
        effects: access.reconfigure(EditorState.readOnly.of(readOnly)),
        selection: { anchor: 0 },
      });
      quiet = false;
    },
    /** An edit that can be undone; `changed` is called. */
    replace(text) {
      view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: text } });
    },
    /** Underline `problems`: { message, severity, line, column }. */
    show(problems) {
      const diagnostics = problems.map(({ message, severity, line, column }) => {
        const from = offset(line, column);
        const rest = view.state.doc.lineAt(from);
        const word = /^[^\s:,#]+/.exec(rest.text.slice(from - rest.from));
        return { from, to: word ? from + word[0].length : Math.max(from, rest.to), severity, message };
      });
      view.dispatch(setDiagnostics(view.state, diagnostics));
    },
    go(line, column) {
      view.dispatch({ selection: { anchor: offset(line, column) }, scrollIntoView: true });
      view.focus();
    },
  };
}
