// A widget in front of its picture: so the output, and the file that is saved, holds only the picture.
//
// A page that has shown the widget inside one of JupyterLab's outputs (`render`) says so, and the
// kernel makes the output the widget's picture alone, in an `<nbx-picture>` with the widget's mark.
// Wherever one with its mark comes into the page, the widget is shown beside it and the picture is
// hidden: there, in a second view, in a page that is loaded again. A newer picture comes in behind
// the widget and does not touch it. Without the kernel there is no widget, and the picture is seen.

const OUTPUT = ".jp-OutputArea-child > .jp-OutputArea-output";

/** Show a widget beside the picture in `output`; return what takes it away again. */
function standInFront(output, render) {
  const place = node("div", "jp-OutputArea-output");
  output.after(place);
  const close = render(place.appendChild(node("div", "")));
  output.style.display = "none";
  return () => {
    close();
    place.remove();
    output.style.display = "";
  };
}

/** The element around a picture. The first widget of a page defines it, for all of them. */
function pictureElement() {
  const known = customElements.get("nbx-picture");
  if (known) return known;
  const widgets = new Map(); // by mark, what draws it in an element
  const shown = new Map(); // by output that has a picture, what draws there and what ends that

  function settle(output) {
    const picture = output.isConnected && output.querySelector("nbx-picture");
    const render = picture ? widgets.get(picture.dataset.mark) : undefined;
    const now = shown.get(output);
    if (now && (!picture || now.render !== render)) {
      now.end?.();
      shown.delete(output);
    }
    if (!picture) return;
    if (!shown.has(output)) shown.set(output, { render, end: render && standInFront(output, render) });
    render ? picture.putAway() : picture.bringBack();
  }

  class PictureElement extends HTMLElement {
    /** Show what `render` draws in front of every picture with this mark; return what ends that. */
    static show(mark, render) {
      const settleAll = () => [...shown.keys()].forEach(settle);
      widgets.set(mark, render);
      settleAll();
      return () => {
        if (widgets.get(mark) !== render) return; // the notebook was opened again meanwhile
        widgets.delete(mark);
        settleAll();
      };
    }

    connectedCallback() {
      this.output = this.closest(OUTPUT);
      if (this.output) settle(this.output);
    }

    disconnectedCallback() {
      const { output } = this;
      if (output) setTimeout(() => settle(output)); // a newer picture may come in its place
    }

    /** Take what it is made of out of the page: nobody is to find all of it twice. */
    putAway() {
      this.away ??= document.createDocumentFragment();
      this.away.append(...this.childNodes);
    }

    bringBack() {
      if (this.away) this.append(this.away);
    }
  }
  customElements.define("nbx-picture", PictureElement);
  return PictureElement;
}

/**
 * Have the notebook hold `html` where it holds another picture with this mark. The kernel has sent
 * that to the output, but a page that was loaded again does not know which output that is.
 */
function keepInNotebook(manager, mark, html) {
  for (const { outputs } of manager?.context?.model?.cells ?? []) {
    for (let i = 0; i < (outputs?.length ?? 0); i++) {
      const output = outputs.get(i).toJSON();
      const known = [output.data?.["text/html"] ?? ""].flat().join("");
      if (!known.includes(`data-mark="${mark}"`) || known === html) continue;
      outputs.set(i, { ...output, data: { ...output.data, "text/html": html } });
    }
  }
}

/** What a widget's module exports: `make()`, as anywidget wants it, in front of its picture. */
function overPicture(make) {
  return () => {
    const widget = make();
    return {
      initialize({ model }) {
        widget.initialize({ model });
        const mark = model.get("mark");
        model.on("msg:custom", ({ op, html }) => {
          if (op === "picture") keepInNotebook(model.widget_manager, mark, html);
        });
        const end = pictureElement().show(mark, (el) => widget.render({ model, el }));
        model.on("comm_live_update", end); // the kernel restarts: nobody hears its buttons any more
        return end;
      },

      render({ model, el }) {
        const close = widget.render({ model, el });
        const asked = requestAnimationFrame(() => el.closest(OUTPUT) && model.send({ op: "over" }));
        return () => {
          cancelAnimationFrame(asked);
          close();
        };
      },
    };
  };
}
